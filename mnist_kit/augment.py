"""Augmentation: each batch of a training is shown moved, bent, thicker or thinner, and a little brighter or darker."""

from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from mnist_kit.errors import RecipeError

GRID = 5  # points per side of the coarse field that bends an image: about one per stroke of a digit


@dataclass(frozen=True)
class Augmentation:
    """How much images are changed at random; 0 switches a change off, and by default all are off.

    degrees: the largest rotation, to either side; scale: the largest share by which each side grows or shrinks; shear:
    the largest slant, px sideways per px of height; shift: the largest move along each axis, px; elastic: the standard
    deviation, px, of a smooth displacement (P. Simard et al., "Best practices for convolutional neural networks",
    2003); thickness: the largest share of a change to strokes 1 px wider on each side (a grey dilation), or narrower
    (an erosion); contrast: the largest share by which the ink is dimmed, and the largest exponent of 2 that gives the
    gamma of its grey edges; erase: the share of the images that lose a square of 5 px somewhere; sharp: whether moved
    images are sampled bicubically, which blurs them less than bilinear sampling does.

    Raises RecipeError for a value that is negative or no number, for shares above 1, and for a `sharp` that is no bool.
    """

    degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    thickness: float = 0.0
    contrast: float = 0.0
    erase: float = 0.0
    sharp: bool = False

    def __post_init__(self):
        if not isinstance(self.sharp, bool):
            raise RecipeError(f"augmentation: sharp must be True or False, not {self.sharp!r}")
        for field in (field for field in fields(self) if field.name != "sharp"):
            value = getattr(self, field.name)
            most = 1 if field.name in ("thickness", "contrast", "erase") else 0.9 if field.name == "scale" else 1000
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise RecipeError(f"augmentation: {field.name} must be a number from 0 to {most}, not {value!r}")


def augment(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """A batch changed at random, each image in its own way.

    images: float32 (N, 1, H, W) in [0, 1], white ink on black; generator: on the CPU, so that every device draws the
    same changes. Returns float32 of the same shape in [0, 1], a new tensor unless all settings are 0.
    """
    if settings.degrees or settings.scale or settings.shear or settings.shift or settings.elastic:
        images = _moved(images, settings, generator)
    if settings.thickness:
        images = _thickened(images, settings.thickness, generator)
    if settings.contrast:
        dim, gamma = (_uniform((len(images), 1, 1, 1), generator).to(images.device) for _ in range(2))
        images = images ** (2 ** (settings.contrast * gamma)) * (1 - settings.contrast * dim.abs())
    if settings.erase:
        images = images * _holes(images, settings.erase, generator)
    return images


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random numbers from −1 to 1."""
    return torch.rand(shape, generator=generator, dtype=torch.float32) * 2 - 1


def _moved(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotated, scaled, sheared, shifted and bent about the centre, all in one sampling."""
    count, _, height, width = images.shape
    angle, shear, *scales = _uniform((4, count), generator) * torch.tensor(
        [[settings.degrees * torch.pi / 180], [settings.shear], [settings.scale], [settings.scale]]
    )
    (cos, sin), (scale_x, scale_y) = (angle.cos(), angle.sin()), (1 / (1 + scale) for scale in scales)
    shift = _uniform((count, 2), generator) * settings.shift * 2 / width
    # Where each pixel of the new image is looked for in the old one: rotated, sheared, then scaled.
    x, y = ((2 * torch.arange(side) + 1) / side - 1 for side in (width, height))  # -1 to 1, as grid_sample counts
    xs = (scale_x * (cos + shear * sin))[:, None] * x, (scale_x * (shear * cos - sin))[:, None] * y
    ys = (scale_y * sin)[:, None] * x, (scale_y * cos)[:, None] * y
    grid = torch.stack([a[:, None, :] + b[:, :, None] for a, b in (xs, ys)], dim=-1) + shift[:, None, None]
    if settings.elastic:
        field = torch.randn((count, 2, GRID, GRID), generator=generator, dtype=torch.float32)
        field = field * settings.elastic * 2 / width
        bent = _spread(height) @ field @ _spread(width).T  # (N, 2, H, W)
        grid = grid + bent.permute(0, 2, 3, 1)
    mode = "bicubic" if settings.sharp else "bilinear"
    return functional.grid_sample(images, grid.to(images), mode, align_corners=False).clamp(0, 1)


def _thickened(images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Blended with the image dilated by 1 px, or eroded, each half of the time."""
    share = (_uniform((len(images), 1, 1, 1), generator) * most).to(images.device)
    # An erosion is a dilation of the negative. Maxima of shifted images: several times faster than a max pooling.
    negative = ((share < 0) * -2 + 1).to(share)
    wide = functional.pad(images * negative, (1, 1, 1, 1))
    wide = wide[..., :-2].maximum(wide[..., 2:]).maximum(wide[..., 1:-1])
    wide = wide[..., :-2, :].maximum(wide[..., 2:, :]).maximum(wide[..., 1:-1, :])
    return images.lerp(wide * negative, share.abs())


@cache
def _spread(side: int) -> Tensor:
    """From GRID points to `side` pixels by a smooth (bicubic) curve: float32 (side, GRID)."""
    points = torch.eye(GRID, dtype=torch.float32)[None, None]
    return functional.interpolate(points, (side, GRID), mode="bicubic", align_corners=True)[0, 0]


def _holes(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """1, and 0 in a square of 5 px somewhere in `share` of the images: (N, 1, H, W)."""
    count, _, height, width = images.shape
    places, chance = (torch.rand(shape, generator=generator, dtype=torch.float32) for shape in ((2, count), (count,)))
    middle = places * torch.tensor([[height], [width]])
    middle[:, chance >= share] = -1000.0
    rows = (torch.arange(height) - middle[0][:, None]).abs() < 2.5
    columns = (torch.arange(width) - middle[1][:, None]).abs() < 2.5
    return (~(rows[:, None, :, None] & columns[:, None, None, :])).to(images)
