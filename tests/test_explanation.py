from functools import partial

import pytest
import torch
from conftest import InDouble, layer_names, net, plain_model, small_model
from torch import nn
from torch.nn.functional import cross_entropy

from mnist_kit.errors import DataError, ImageError, ModelError
from mnist_kit.explanation import features, fgsm, occlusion, saliency

torch.manual_seed(0)
IMAGES, LABELS = torch.rand(6, 1, 28, 28), torch.arange(6)


def test_covering_what_is_empty_changes_nothing_and_covering_what_counts_does():
    image = torch.zeros(1, 28, 28)
    image[:, 10:14, 10:14] = 1
    fall = occlusion(small_model().eval(), image, 3, reach=1)
    assert fall.shape == (28, 28)
    near = torch.zeros(28, 28, dtype=torch.bool)
    near[9:15, 9:15] = True  # the squares of 3×3 px that touch the ink
    assert (fall[~near] == 0).all() and (fall[near] != 0).any()
    covered = image.clone()
    covered[:, 8:11, 13:16] = 0  # around row 9, column 14
    before, after = small_model().eval()(torch.stack([image, covered])).softmax(1)[:, 3]
    assert fall[9, 14] == pytest.approx((before - after).item(), abs=1e-6) and fall[9, 14] != 0


def test_occlusion_is_the_fall_of_the_probability():
    model, image = plain_model(), IMAGES[0]
    covered = image.clone()
    covered[:, 0:3, 18:23] = 0.5  # around row 0, column 20: the rest of the square lies outside
    before, after = model(torch.stack([image, covered])).softmax(1)[:, 7]
    assert occlusion(model, image, 7, reach=2, value=0.5)[0, 20] == pytest.approx((before - after).item(), abs=1e-6)


def test_saliency_is_what_finite_differences_are():
    model, step = InDouble(plain_model()), torch.zeros(1, 1, 28, 28, dtype=torch.float64)
    slopes = saliency(model, IMAGES, LABELS)
    for row, column in [(0, 0), (13, 5), (27, 27)]:
        step[:] = 0
        step[..., row, column] = 1e-6
        rise = (model(IMAGES + step) - model(IMAGES - step)) / 2e-6
        wanted = rise.gather(1, LABELS[:, None])[:, 0].float()
        torch.testing.assert_close(slopes[:, 0, row, column], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.2])
def test_fgsm_raises_the_loss_by_small_steps(epsilon):
    model = net().eval()
    moved = fgsm(model, IMAGES, LABELS, epsilon)
    assert (moved - IMAGES).abs().max() <= epsilon + 1e-6
    assert moved.min() >= 0 and moved.max() <= 1
    assert cross_entropy(model(moved), LABELS) > cross_entropy(model(IMAGES), LABELS)
    assert torch.equal(fgsm(model, IMAGES, LABELS, 0.0), IMAGES)


def test_features_are_what_the_last_layer_weighs():
    model = net().eval()
    found = features(model, IMAGES)
    assert found.shape == (6, 64)
    torch.testing.assert_close(model.linear_block[-1](found), model(IMAGES))


@pytest.mark.parametrize(
    "explain",
    [
        lambda model: occlusion(model, IMAGES[0], 1),
        lambda model: saliency(model, IMAGES, LABELS),
        lambda model: fgsm(model, IMAGES, LABELS, 0.1),
        lambda model: features(model, IMAGES),
    ],
)
def test_the_model_and_chance_stay_as_they_were(explain):
    model = small_model()
    model[1].eval()
    modes, state, chance = [m.training for m in model.modules()], str(model.state_dict()), torch.get_rng_state()
    first, names = explain(model), layer_names(model)
    with torch.inference_mode():
        assert torch.equal(explain(model), first)  # no dropout, no batch norm of the batch
    assert [m.training for m in model.modules()] == modes and str(model.state_dict()) == state
    assert torch.equal(torch.get_rng_state(), chance) and layer_names(model) == names
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_what_cannot_be_explained_is_told():
    model = plain_model()
    for explain in (saliency, partial(fgsm, epsilon=0.1)):
        with pytest.raises(ImageError, match="28, 28"):
            explain(model, (255 * IMAGES).byte(), LABELS)
        with pytest.raises(DataError, match=r"\(6,\)"):
            explain(model, IMAGES, LABELS[:5])
        with pytest.raises(ModelError, match="logits"):
            explain(model, IMAGES, LABELS + 10)
    with pytest.raises(ImageError, match="28, 28"):
        occlusion(model, IMAGES[0, 0], 1)
    with pytest.raises(ModelError, match="Linear"):
        features(nn.Flatten(), IMAGES)
