"""How well drawn digits and numbers are read, and what is refused (one table, some minutes on a CPU):

    python tools/measure_reading.py pen_strokes/dev.jsonl

Real digits are every second line of a file of drawings that are digits: "odd" lines by default, so that the "even" ones
are there to choose constants by. Numbers are such digits side by side. What is no digit is drawn as the training of
`mnist_kit.doubt` draws it, from another seed.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from train_doubt import no_digit

from mnist_kit import Drawing, MnistKitError, Recognizer, Stroke, read_drawings, sample_drawing
from mnist_kit.doubt import digit_likeness
from mnist_kit.files import data_folder
from mnist_kit.splitting import as_text, split

HEIGHT, TOP, PEN = 120, 200, 6  # px; of the digits of a number
SEED = 2_000_000  # of what is drawn here; training counts from 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drawings", nargs="?", type=Path, default=data_folder() / "pen_strokes" / "dev.jsonl")
    parser.add_argument("--half", choices=["odd", "even"], default="odd", help="which lines of the file")
    parser.add_argument("--numbers", type=int, default=300, help="of two to five digits, of each kind")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    recognizer = Recognizer.load()
    try:
        digits = read_drawings(options.drawings)[options.half == "odd" :: 2]
    except MnistKitError as error:
        print(error, file=sys.stderr)
        return 2
    drawn = [sample_drawing(n % 10, SEED + n) for n in range(len(digits) // 2)]
    others = torch.stack([no_digit(rng) for _ in range(1_000)])
    table = {
        "real digits": read_digits(digits, recognizer),
        "synthetic digits": read_digits(drawn, recognizer),
        "numbers of real digits": read_numbers(digits, options.numbers, recognizer, rng),
        "numbers of synthetic digits": read_numbers(drawn, options.numbers, recognizer, rng),
        "letters, signs, shapes, scribbles": refuse(others, recognizer),
    }
    print(pd.DataFrame(table).T.fillna("").to_string())
    return 0


def read_digits(drawings: list[Drawing], recognizer: Recognizer) -> dict[str, str]:
    """Each alone on the pad."""
    answers = [split(drawing, recognizer) for drawing in drawings]
    pairs = list(zip(answers, drawings, strict=True))
    return {
        "drawings": f"{len(pairs):,}",
        "taken for several": percent(len(answer) != 1 for answer, _ in pairs),
        "read right": percent(as_text(answer) == str(drawing.label) for answer, drawing in pairs),
        "not sure": percent("?" in as_text(answer) for answer, _ in pairs),
    }


def read_numbers(digits: list[Drawing], count: int, recognizer: Recognizer, rng) -> dict[str, str]:
    """Two to five of `digits` in a row, 0.15–0.6 of their height apart."""
    pairs = []
    for _ in range(count):
        chosen = [digits[n] for n in rng.integers(len(digits), size=rng.integers(2, 6))]
        pairs.append((as_text(split(in_a_row(chosen, rng), recognizer)), "".join(str(d.label) for d in chosen)))
    return {
        "drawings": f"{count:,}",
        "counted wrong": percent(len(text) != len(number) for text, number in pairs),
        "read right": percent(text == number for text, number in pairs),
        "not sure": percent("?" in text for text, _ in pairs),
    }


def in_a_row(digits: list[Drawing], rng: np.random.Generator) -> Drawing:
    """`digits` beside each other, each about HEIGHT px high and a little off the line, as one drawing."""
    strokes, left = [], 40.0
    for digit in digits:
        points = np.concatenate([stroke.points for stroke in digit.strokes])
        corner, size = points.min(axis=0), np.ptp(points, axis=0)
        scale = HEIGHT * rng.uniform(0.85, 1.15) / max(size[1], size[0] / 1.5, 1)
        place = left, TOP + HEIGHT * rng.uniform(-0.1, 0.1)
        strokes += [Stroke((stroke.points - corner) * scale + place, PEN) for stroke in digit.strokes]
        left += size[0] * scale + HEIGHT * rng.uniform(0.15, 0.6)
    return Drawing(1200, 600, strokes)


def refuse(images: torch.Tensor, recognizer: Recognizer) -> dict[str, str]:
    """images: float32 (N, 1, 28, 28), framed."""
    probable = recognizer.predict_images(images).max(axis=1) >= 0.5
    sure = probable & (digit_likeness(images) >= 0.5)
    return {"drawings": f"{len(images):,}", "not sure": percent(~sure)}


def percent(cases: Iterable[bool]) -> str:
    cases = list(cases)
    return f"{sum(cases) / len(cases):.1%}"


if __name__ == "__main__":
    sys.exit(main())
