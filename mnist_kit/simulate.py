"""Simulated photographs: a drawing on paper, in some light, through some camera. Seeded, for training and for tests.

The steps follow what happens to a real page: a pen on tinted, plain, ruled or squared paper; a camera held at an angle,
now and then with the sheet's edge in view; light from one side, a dim corner, a shadow; blur, grain and JPEG.
"""

import io
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from mnist_kit.errors import ImageError
from mnist_kit.ink import Drawing

Range = tuple[float, float]  # what a value is drawn from, evenly; two equal ends fix it

PENS = {  # RGB on white paper
    "black": (25, 25, 30),
    "blue": (30, 50, 140),
    "red": (180, 35, 45),
    "green": (30, 110, 70),
    "pencil": (110, 110, 115),
}
LINES = ("plain", "ruled", "squared")


@dataclass(frozen=True)
class PhotoSettings:
    """What photographs are like; each is drawn from its range or its choices.

    side: of the longer side, px; aspect: shorter by longer side; digit: longest side of the ink, share of the shorter
    side; pen: its width, share of the ink's longest side; colours: names in PENS; lines: of LINES; line_contrast: share
    of the paper's light that a printed line takes away; paper: its brightness, of 255; tint: largest difference between
    its colours; gradient, vignette, shadow: share of the light that is lost at the dark side, in the corners, in a
    shadow with a soft edge; edge: probability that an edge of the sheet, and the table, are in view; tilt: of the
    camera, degrees of rotation and per cent of perspective; blur: sigma, thousandths of the longer side; grain: sigma,
    grey levels; quality: of the JPEG.
    """

    side: Range = (300, 1600)
    aspect: Range = (0.7, 1)
    digit: Range = (0.3, 0.75)
    pen: Range = (0.03, 0.14)
    colours: tuple[str, ...] = ("black", "blue", "black", "blue", "red", "green", "pencil")
    lines: tuple[str, ...] = ("plain", "plain", "ruled", "squared")
    line_contrast: Range = (0.08, 0.25)
    paper: Range = (150, 245)
    tint: Range = (0, 25)
    gradient: Range = (0, 0.4)
    vignette: Range = (0, 0.3)
    shadow: Range = (0, 0.3)
    edge: float = 0.1
    tilt: Range = (0, 6)
    blur: Range = (0.3, 2)
    grain: Range = (1, 8)
    quality: Range = (50, 95)


def photograph(
    drawing: Drawing, seed: int | np.random.Generator = 0, settings: PhotoSettings | None = None
) -> Image.Image:
    """A photograph of `drawing` on paper: a PIL image, RGB.

    The same drawing, seed and settings give the same picture; a Generator as `seed` is drawn from. Erasing strokes are
    erased. Raises ImageError for a drawing without strokes, and for unknown colours or lines.
    """
    if not drawing.strokes:
        raise ImageError("a photograph needs a drawing with at least one stroke")
    settings = settings or PhotoSettings()
    for chosen, known in ((settings.colours, PENS), (settings.lines, LINES)):
        if not chosen or not set(chosen) <= set(known):
            raise ImageError(f"photographs know {', '.join(known)}, not {', '.join(chosen)}")
    rng = np.random.default_rng(seed)
    sides = rng.uniform(*settings.side) * np.array([1, rng.uniform(*settings.aspect)])
    height, width = rng.permutation(sides).clip(min=8).round().astype(int).tolist()
    margin = max(height, width) // 4  # of paper around the view, for the camera to turn to
    page = _paper(height + 2 * margin, width + 2 * margin, settings, rng)
    page = _write(page, drawing, margin, settings, rng)
    scene = _aim(page, height, width, margin, settings, rng)
    scene *= _light(height, width, settings, rng)[..., None]
    sigma = rng.uniform(*settings.blur) * max(height, width) / 1000
    scene = cv2.GaussianBlur(scene, (0, 0), max(sigma, 0.01))
    scene += rng.normal(0, 1, (height, width, 1)) * rng.uniform(*settings.grain)
    file = io.BytesIO()
    quality = round(rng.uniform(*settings.quality))
    Image.fromarray(scene.clip(0, 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return Image.open(file)


def _paper(height: int, width: int, settings: PhotoSettings, rng: np.random.Generator) -> np.ndarray:
    """A page, float32 (height, width, 3) in 0–255, with or without printed lines."""
    colour = rng.uniform(*settings.paper) - rng.uniform(*settings.tint) * rng.permutation([0, rng.random(), 1])
    page = np.full((height, width, 3), colour, np.float32)
    kind, contrast = str(rng.choice(settings.lines)), rng.uniform(*settings.line_contrast)
    pitch = max(4, round(min(height, width) * rng.uniform(0.05, 0.3)))
    wide = max(1, round(pitch * rng.uniform(0.02, 0.05)))
    print_colour = 1 - contrast * np.array([1, 0.8, rng.uniform(0.3, 1)], np.float32)
    for offset in range(wide):
        if kind != "plain":
            page[pitch // 2 + offset :: pitch] = colour * print_colour
        if kind == "squared":
            page[:, pitch // 2 + offset :: pitch] = colour * print_colour
    return page


def _write(page, drawing, margin: int, settings: PhotoSettings, rng: np.random.Generator) -> np.ndarray:
    """The page with the drawing on it, somewhere in the view."""
    view = np.array(page.shape[1::-1]) - 2 * margin
    side = max(rng.uniform(*settings.digit) * view.min(), 4)
    radius = side * rng.uniform(*settings.pen) / 2
    points = np.concatenate([stroke.points for stroke in drawing.strokes])
    corner, size = points.min(axis=0), np.ptp(points, axis=0)
    scale = (side - 2 * radius) / max(size.max(), 1e-6)
    room = view - size * scale - 2 * radius
    place = margin + radius + room * rng.uniform(0.2, 0.8, 2)
    strokes = [replace(s, points=(s.points - corner) * scale + place, radius=radius) for s in drawing.strokes]
    ink = Drawing(page.shape[1], page.shape[0], strokes).raster().astype(np.float32)[..., None] / 255
    name = str(rng.choice(settings.colours))
    if name == "pencil":  # grains of the paper stay white
        ink *= cv2.GaussianBlur(rng.uniform(0.3, 1.3, ink.shape).astype(np.float32), (0, 0), 1)[..., None].clip(0, 1)
    return page * (1 - ink * (1 - np.array(PENS[name], np.float32) / 255))


def _aim(page, height: int, width: int, margin: int, settings: PhotoSettings, rng) -> np.ndarray:
    """What a camera sees of the page that is not held quite straight: float32 (height, width, 3)."""
    if rng.random() < settings.edge:  # the sheet ends within the view, on a darker or lighter table
        table = rng.uniform(20, 130, (1, 1, 3)).astype(np.float32)
        end = round(margin * rng.uniform(1.02, 1.12))
        side = rng.integers(4)
        (page, page[::-1], page.swapaxes(0, 1), page.swapaxes(0, 1)[::-1])[side][:end] = table
    tilt = rng.uniform(*settings.tilt)
    angle = np.radians(rng.uniform(-tilt, tilt))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    middle = np.array([width, height]) / 2
    bent = (corners - middle) @ rotation.T + middle + rng.uniform(-tilt, tilt, (4, 2)) / 100 * max(width, height) / 2
    matrix = cv2.getPerspectiveTransform((bent + margin).astype(np.float32), corners)
    return cv2.warpPerspective(page, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)


def _light(height: int, width: int, settings: PhotoSettings, rng: np.random.Generator) -> np.ndarray:
    """The light that falls on each pixel, float32 (height, width), at most 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, turn = rng.uniform(0, 2 * np.pi, 2)
    gradient = rng.uniform(*settings.gradient) * (1 + (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2)) / 2
    vignette = rng.uniform(*settings.vignette) * (x**2 + y**2) / 2
    edge = (x * np.cos(turn) + y * np.sin(turn) - rng.uniform(-0.8, 0.8)) / rng.uniform(0.1, 0.6)
    shadow = rng.uniform(*settings.shadow) / (1 + np.exp(-4 * edge))
    return (1 - gradient) * (1 - vignette) * (1 - shadow)
