from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit.augment import Augmentation, _spread, augment
from mnist_kit.errors import RecipeError

ALL = Augmentation(degrees=10, scale=0.1, shear=0.2, shift=1.5, elastic=0.7, thickness=0.8, contrast=0.4, erase=0.3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crosses(count: int = 8) -> torch.Tensor:
    """White crosses, 20 px high, in the middle: float32 (count, 1, 28, 28)."""
    images = torch.zeros(count, 1, 28, 28)
    images[..., 4:24, 13:15] = 1
    images[..., 13:15, 4:24] = 1
    return images


@given(
    st.builds(
        Augmentation,
        degrees=st.floats(0, 45),
        scale=st.floats(0, 0.5),
        shear=st.floats(0, 0.5),
        shift=st.floats(0, 4),
        elastic=st.floats(0, 3),
        thickness=st.floats(0, 1),
        contrast=st.floats(0, 1),
        erase=st.floats(0, 1),
        sharp=st.booleans(),
    ),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=50)
def test_images_keep_their_shape_and_range(chosen, count):
    images = torch.rand(count, 1, 28, 28, generator=generator())
    before = images.clone()
    changed = augment(images, chosen, generator())
    assert changed.shape == images.shape and changed.dtype == torch.float32
    assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1 + 1e-6
    assert torch.equal(images, before)


def test_without_settings_nothing_changes():
    images = torch.rand(4, 1, 28, 28, generator=generator())
    assert torch.equal(augment(images, Augmentation(), generator()), images)


def test_a_seed_gives_the_same_images_and_another_seed_others():
    images = crosses()
    first = augment(images, ALL, generator(1))
    assert torch.equal(first, augment(images, ALL, generator(1)))
    assert not torch.equal(first, augment(images, ALL, generator(2)))
    assert all(not torch.equal(first[0], other) for other in first[1:])  # each image of a batch in its own way


def test_digits_stay_about_in_the_middle():
    changed = augment(crosses(500), Augmentation(degrees=10, scale=0.1, shear=0.2, elastic=0.7), generator())
    places = torch.arange(28.0)
    mass = changed.sum(dim=(1, 2, 3))
    x, y = (changed.sum(dim=(1, side)) @ places / mass for side in (2, 3))
    assert (x - 13.5).abs().max() < 2.5 and (y - 13.5).abs().max() < 2.5
    assert (x.mean() - 13.5).abs() < 0.1 and (y.mean() - 13.5).abs() < 0.1


def test_a_rotation_turns_by_the_angle_that_was_drawn():
    """A level bar becomes a line through the centre whose slope is that of at most 30 degrees."""
    bar = torch.zeros(200, 1, 28, 28)
    bar[..., 13:15, 4:24] = 1
    changed = augment(bar, Augmentation(degrees=30), generator())[:, 0]
    places = torch.arange(28.0) - 13.5
    covariance = torch.einsum("nyx,y,x->n", changed, places, places)
    slopes = covariance / torch.einsum("nyx,x->n", changed, places**2)
    angles = slopes.atan() * 180 / torch.pi
    assert 27 < angles.max() < 31 and -31 < angles.min() < -27
    torch.testing.assert_close(changed.sum(dim=(1, 2)).mean(), bar[0].sum(), rtol=0.03, atol=0)


def test_thickness_widens_and_narrows_strokes():
    bar = torch.zeros(400, 1, 28, 28)
    bar[..., 12:16, 4:24] = 1  # 4 px thick
    ink = augment(bar, Augmentation(thickness=1), generator()).sum(dim=(1, 2, 3))
    most, least = 6 * 22, 2 * 18  # one pixel more, or less, on every side
    assert most - 3 < ink.max() <= most and least <= ink.min() < least + 3


def test_contrast_dims_ink_and_leaves_the_paper_black():
    changed = augment(crosses(400), Augmentation(contrast=0.5), generator())
    peaks = changed.amax(dim=(1, 2, 3))
    assert 0.5 <= peaks.min() < 0.52 and 0.98 < peaks.max() <= 1
    assert changed[crosses(400) == 0].max() == 0


def test_erase_takes_a_square_from_its_share_of_the_images():
    changed = augment(torch.ones(2000, 1, 28, 28), Augmentation(erase=0.25), generator())
    lost = (changed == 0).sum(dim=(1, 2, 3))
    assert 0.2 < (lost > 0).float().mean() < 0.3
    assert lost.max() == 25


def test_what_the_default_dtype_is_changes_nothing():
    images, settings = crosses(), replace(ALL, sharp=True)
    expected = augment(images, settings, generator())
    _spread.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        changed = augment(images, settings, generator())
    finally:
        torch.set_default_dtype(torch.float32)
    assert changed.dtype == torch.float32 and torch.allclose(changed, expected, atol=1e-5)


def test_bicubic_sampling_keeps_the_edges_of_a_moved_image_sharper():
    edges = [
        augment(crosses(100), Augmentation(shift=2, sharp=sharp), generator()).diff(dim=3).square().sum().item()
        for sharp in (False, True)
    ]
    assert edges[0] < edges[1]


@pytest.mark.parametrize(
    "values",
    [{"degrees": -1}, {"thickness": 1.5}, {"scale": 1}, {"erase": "much"}, {"shift": float("nan")}, {"sharp": 1}],
)
def test_senseless_settings_are_refused(values):
    with pytest.raises(RecipeError, match=f"augmentation: {next(iter(values))}"):
        Augmentation(**values)
