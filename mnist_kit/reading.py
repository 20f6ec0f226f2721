"""Reading: the numbers in a drawing or a picture, and the command that prints them."""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mnist_kit.decoding import as_image
from mnist_kit.errors import EmptyDrawing, ImageError, MnistKitError
from mnist_kit.files import write_atomically
from mnist_kit.ink import Drawing, Stroke, read_drawings
from mnist_kit.photos import as_raster
from mnist_kit.recognizer import Recognizer
from mnist_kit.segmentation import FAINT, ReadDigit, as_text, split

RED = (220, 0, 0)
# Marks between two digits, in shares of their height
POINT, LOW = 0.3, 0.65  # a point is smaller, and lower than that
LEVEL = 0.25  # a dash is no farther from the middle
WIDEST = 2  # the space around a mark
SMALLEST = 0.4  # of the size that a digit has at least in a picture


@dataclass(frozen=True, eq=False)
class Reading:
    """What stands on a page.

    digits: all of them, line by line; their boxes are in pixels of the drawing or picture. marks: for each digit, what
    stands between the one before it, in the same line, and itself: "." a decimal point, "-" a dash, else "".
    """

    digits: tuple[ReadDigit, ...]
    marks: tuple[str, ...]

    @property
    def lines(self) -> list[list[ReadDigit]]:
        """From top to bottom, the digits of each from left to right."""
        return [list(line) for _, line in groupby(self.digits, lambda digit: digit.line)]

    @property
    def text(self) -> str:
        """The numbers, one per line, with points and dashes; "?" for each digit that the recognizer is not sure of."""
        pairs = zip(self.digits, self.marks, strict=True)
        lines = groupby(pairs, lambda pair: pair[0].line)
        return "\n".join("".join(mark + as_text([digit]) for digit, mark in line) for _, line in lines)

    @property
    def sure(self) -> bool:
        """Whether the recognizer is sure of every digit."""
        return all(digit.prediction.sure for digit in self.digits)

    @property
    def confidence(self) -> float:
        """That of the least certain digit, in [0, 1]: the probability of its class times its likeness to a digit."""
        return min(digit.prediction.confidence for digit in self.digits)

    def as_dict(self) -> dict:
        """text, sure, confidence, and per line its digits with digit, sure, confidence and box, as plain values."""
        lines = [[_as_dict(digit) for digit in line] for line in self.lines]
        return {"text": self.text, "sure": self.sure, "confidence": round(self.confidence, 4), "lines": lines}

    def shown_in(self, picture) -> Image.Image:
        """The drawing or picture that was read, mode RGB, with a box around each digit and the answer above it."""
        image = picture.to_image() if isinstance(picture, Drawing) else ImageOps.exif_transpose(as_image(picture))
        image = image.convert("RGB")
        draw = ImageDraw.Draw(image)
        for digit in self.digits:
            left, top, right, bottom = digit.box
            size = max(10, (bottom - top) // 3)
            answer = str(digit.prediction.digit) if digit.prediction.sure else f"{digit.prediction.digit}?"
            draw.rectangle((left, top, right - 1, bottom - 1), outline=RED, width=max(1, size // 12))
            draw.text((left, max(0, top - 1.2 * size)), answer, RED, ImageFont.load_default(size))
        return image


def read(picture, recognizer: Recognizer | None = None) -> Reading:
    """The digits in a drawing or a picture: lines from top to bottom, each from left to right.

    picture: a `Drawing`, or a picture as `as_raster` takes them (PIL image, array, tensor, path); recognizer: None
    takes `Recognizer.load()`. Raises EmptyDrawing where there is no ink, and ImageError for a picture that cannot be
    used, for ink in more than 1,000 pieces, and where nothing looks like a digit.
    """
    recognizer = Recognizer.load() if recognizer is None else recognizer
    is_drawing = isinstance(picture, Drawing)
    raster = picture.raster() if is_drawing else as_raster(picture, SMALLEST)
    marks = _marks(raster)
    if is_drawing:
        strokes = [stroke for stroke in picture.strokes if not any(mark.holds(stroke) for mark in marks)]
        digits = split(replace(picture, strokes=strokes), recognizer)
    else:
        for mark in marks:
            raster[mark.top : mark.bottom, mark.left : mark.right] = 0
        digits = split(raster, recognizer)
    if not digits and is_drawing:
        raise EmptyDrawing("nothing is drawn yet: there is no ink in the drawing")
    if not digits:
        raise EmptyDrawing("there is nothing in the picture that looks like a digit: no ink was found on its paper")
    if not any(digit.prediction.likeness >= 0.5 for digit in digits):
        raise ImageError(f"nothing looks like a digit, in {len(digits)} places where there is ink")
    factor = 1 if is_drawing else round(max(as_image(picture).size) / max(raster.shape))
    before = [""]
    for last, digit in pairwise(digits):
        left, top, _, bottom = last.box
        here = [m.sign for m in marks if left < m.left < digit.box[0] and top < m.bottom < 2 * bottom - top]
        before.append("".join(here) if last.line == digit.line else "")
    digits = [replace(digit, box=tuple(factor * side for side in digit.box)) for digit in digits]
    return Reading(tuple(digits), tuple(before))


def _as_dict(digit: ReadDigit) -> dict:
    answer = digit.prediction
    confidence = round(answer.confidence, 4)
    return {"digit": answer.digit, "sure": answer.sure, "confidence": confidence, "box": list(digit.box)}


class _Mark(NamedTuple):
    """A point or a dash, and the box around it, in pixels of the raster."""

    sign: str
    left: int
    top: int
    right: int
    bottom: int

    def holds(self, stroke: Stroke) -> bool:
        x, y = (stroke.points.min(axis=0) + stroke.points.max(axis=0)) / 2
        return self.left <= x <= self.right and self.top <= y <= self.bottom


def _marks(raster: np.ndarray) -> list[_Mark]:
    """The points and dashes in the ink of a page, uint8 (H, W): low specks and level strokes, alone between digits."""
    pieces = cv2.connectedComponentsWithStats((raster > FAINT).astype(np.uint8), connectivity=8)[2][1:]
    left, top, width, height = pieces[:, :4].T
    right, bottom, middle = left + width, top + height, top + height / 2
    marks = []
    for n in np.nonzero(height < POINT * height.max(initial=0))[0]:
        in_line = (height > 3 * height[n]) & (top < middle[n]) & (middle[n] < bottom + 0.2 * height)
        before, after = in_line & (right <= left[n]), in_line & (left >= right[n])
        if not (before.any() and after.any()):
            continue
        beside = [np.where(before, right, -1).argmax(), np.where(after, left, raster.shape[1]).argmin()]
        size, head = height[beside].mean(), top[beside].mean()
        above_or_below = (left < right[n]) & (right > left[n]) & (bottom > head) & (top < head + size)
        if above_or_below.sum() > 1 or left[beside[1]] - right[beside[0]] > WIDEST * size:
            continue
        place = (middle[n] - head) / size  # 0 at the top of the digits, 1 at their foot
        is_point = max(width[n], height[n]) < POINT * size and place > LOW
        if is_point or (width[n] > 1.5 * height[n] and abs(place - 0.5) < LEVEL):
            marks.append(_Mark("." if is_point else "-", left[n], top[n], right[n], bottom[n]))
    return marks


# The command


def add_command(commands) -> None:
    """Add `read` to the subcommands of `python -m mnist_kit`; `options.run(options)` runs it and returns its status."""
    parser = commands.add_parser(
        "read",
        help="print the numbers in pictures",
        description="Print the numbers in pictures, or in files of drawings (.jsonl): one per line.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture, or a .jsonl file of drawings")
    parser.add_argument("--json", action="store_true", help="print an object per picture, with boxes and confidences")
    parser.add_argument("--show", metavar="OUT.png", type=Path, help="draw boxes and answers into the (one) picture")
    parser.add_argument("--weights", metavar="NAME", default="reader", help="whose weights read; default: %(default)s")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read the files that `options` names. Returns 0; 1 where a page could not be read. Raises for wrong options."""
    recognizer = Recognizer.load(options.weights)
    pages = [page for file in options.files for page in _pages(file)]
    if options.show and len(pages) != 1:
        raise ImageError(f"--show draws into one picture, not into {len(pages)}")
    return max((_print(name, page, recognizer, options, len(pages) > 1) for name, page in pages), default=0)


def _pages(file: str) -> list[tuple[str, object]]:
    """What is to be read in a file, with names: the picture itself, or each drawing."""
    if not file.endswith(".jsonl"):
        return [(file, file)]
    return [(f"{file}:{number}", drawing) for number, drawing in enumerate(read_drawings(file), start=1)]


def _print(name: str, page, recognizer: Recognizer, options: argparse.Namespace, several: bool) -> int:
    try:
        reading = read(page, recognizer)
        if options.show:
            image = BytesIO()
            reading.shown_in(page).save(image, "PNG")
            write_atomically(options.show, image.getvalue())
    except MnistKitError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"file": name, **reading.as_dict()}))
    else:
        for line in reading.text.splitlines():
            print(f"{name}: {line}" if several else line)
    return 0
