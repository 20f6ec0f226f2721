"""Reading: the numbers in a drawing or a picture, and the command that prints them."""

import argparse
import json
import os
import sys
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mnist_kit.errors import EmptyDrawing, ImageError, MnistKitError
from mnist_kit.files import write_atomically
from mnist_kit.ink import Drawing, read_drawings
from mnist_kit.photos import as_raster
from mnist_kit.recognizer import Recognizer
from mnist_kit.segmentation import ReadDigit, as_text, split

RED = (220, 0, 0)


@dataclass(frozen=True, eq=False)
class Reading:
    """What stands on a page. digits: all of them, line by line; their boxes are in pixels of the drawing or picture."""

    digits: tuple[ReadDigit, ...]

    @property
    def lines(self) -> list[list[ReadDigit]]:
        """From top to bottom, the digits of each from left to right."""
        return [list(line) for _, line in groupby(self.digits, lambda digit: digit.line)]

    @property
    def text(self) -> str:
        """The numbers, one per line, "?" for each digit that the recognizer is not sure of."""
        return as_text(self.digits)

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
        lines = [
            [
                {
                    "digit": digit.prediction.digit,
                    "sure": digit.prediction.sure,
                    "confidence": round(digit.prediction.confidence, 4),
                    "box": list(digit.box),
                }
                for digit in line
            ]
            for line in self.lines
        ]
        return {"text": self.text, "sure": self.sure, "confidence": round(self.confidence, 4), "lines": lines}

    def shown_in(self, picture) -> Image.Image:
        """The drawing or picture that was read, mode RGB, with a box around each digit and the answer above it."""
        image = _as_image(picture)
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
    if isinstance(picture, Drawing):
        digits, factor = split(picture, recognizer), 1
        if not digits:
            raise EmptyDrawing("nothing is drawn yet: there is no ink in the drawing")
    else:
        raster = as_raster(picture)
        digits, factor = split(raster, recognizer), round(_longer_side(picture) / max(raster.shape))
        if not digits:
            raise EmptyDrawing("there is nothing in the picture that looks like a digit: no ink was found on its paper")
    if not any(digit.prediction.likeness >= 0.5 for digit in digits):
        raise ImageError(f"nothing looks like a digit, in {len(digits)} places where there is ink")
    return Reading(tuple(replace(digit, box=tuple(factor * side for side in digit.box)) for digit in digits))


def _longer_side(picture) -> int:
    if isinstance(picture, str | os.PathLike):
        with Image.open(picture) as image:  # its header is enough
            return max(image.size)
    return max(picture.size if isinstance(picture, Image.Image) else np.shape(picture))


def _as_image(picture) -> Image.Image:
    if isinstance(picture, Drawing):
        picture = picture.to_image()
    elif isinstance(picture, str | os.PathLike):
        picture = ImageOps.exif_transpose(Image.open(picture))
    elif not isinstance(picture, Image.Image):
        picture = Image.fromarray(as_raster(picture))
    return picture.convert("RGB")


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
    parser.add_argument("--weights", metavar="NAME", help="read with these weights in place of the package's")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read the files that `options` names. Returns 0; 1 where a page could not be read; 2 for wrong options."""
    try:
        recognizer = Recognizer.load(options.weights) if options.weights else Recognizer.load()
        pages = [page for file in options.files for page in _pages(file)]
    except MnistKitError as error:
        print(error, file=sys.stderr)
        return 2
    if options.show and len(pages) != 1:
        print(f"--show draws into one picture, not into {len(pages)}", file=sys.stderr)
        return 2
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
