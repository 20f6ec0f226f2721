"""How well what people write is read, and what is refused: one table, about ten minutes on a CPU.

    python tools/measure_reading.py                     everything that is in the data folder
    python tools/measure_reading.py --sites ibm apb     of the pen digits and signs, these sites only

Read in the data folder ($MNIST_KIT_DATA): `pen_sites/digits.jsonl` and `signs.jsonl`, `pen_strokes/dev.jsonl`, and
`pictures/` with its `index.csv`; what is not there is left out. Numbers are pen digits side by side, photographs are
simulated, both seeded. Name the sites that the network was not trained on: the others say nothing about new hands.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mnist_kit import Drawing, MnistKitError, Recognizer, Stroke, as_text, read, read_drawings, split
from mnist_kit.files import data_folder
from mnist_kit.simulate import photograph

HEIGHT, TOP, PEN = 120, 200, 6  # px; of the digits of a number
# Signs that some people write as others write digits; what they are called says nothing.
LIKE_DIGITS = set("OoDQIilLSsZzBbGgqyJjtfrTYUu|/\\()[]!'1,.`\"")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", nargs="*", help="of pen_sites; all by default")
    parser.add_argument("--most", type=int, default=1_000, help="drawings per row, drawn by lot")
    parser.add_argument("--weights", help="the name of the weights; those that the pad uses by default")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    try:
        recognizer = Recognizer.load(options.weights) if options.weights else Recognizer.load()
        table = rows(recognizer, options.sites, options.most, rng)
    except MnistKitError as error:
        print(error, file=sys.stderr)
        return 2
    print(pd.DataFrame(table).T.fillna("").to_string())
    return 0


def rows(recognizer: Recognizer, sites: list[str] | None, most: int, rng: np.random.Generator) -> dict[str, dict]:
    folder, table = data_folder(), {}
    digits = of_sites(folder / "pen_sites" / "digits.jsonl", sites)
    for site in sorted({row["site"] for row in digits}):
        drawings = [row["drawing"] for row in digits if row["site"] == site]
        table[f"pen digits, {site}"] = read_digits(some(drawings, most, rng), recognizer)
    if digits:
        drawings = some([row["drawing"] for row in digits], most, rng)
        table["pen digits, all sites"] = read_digits(drawings, recognizer)
        table["numbers of them"] = read_numbers(drawings, most // 4, recognizer, rng)
        photographs = [(photograph(drawing, n), str(drawing.label)) for n, drawing in enumerate(drawings[: most // 4])]
        table["photographs of them"] = read_pictures(photographs, recognizer)
    signs = of_sites(folder / "pen_sites" / "signs.jsonl", sites)
    signs = [row["drawing"] for row in signs if row["sign"].removeprefix("\\") not in LIKE_DIGITS | {""}]
    if signs:
        table["letters and signs"] = refuse(some(signs, most, rng), recognizer)
    if (folder / "pen_strokes" / "dev.jsonl").exists():
        people = some(read_drawings(folder / "pen_strokes" / "dev.jsonl"), most, rng)
        table["pen digits, 30 people"] = read_digits(people, recognizer)
        table["numbers of these"] = read_numbers(people, most // 4, recognizer, rng)
    if (folder / "pictures" / "index.csv").exists():
        with open(folder / "pictures" / "index.csv", newline="") as file:
            pictures = [(folder / "pictures" / row["file"], row["label"]) for row in csv.DictReader(file)]
        table["pictures"] = read_pictures(pictures, recognizer)
    return table


def of_sites(path: Path, sites: list[str] | None) -> list[dict]:
    """The rows of a file of `pen_sites`, with "drawing"; of `sites` only."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in rows if not sites or row["site"] in sites]
    return [row | {"drawing": Drawing.from_json(json.dumps(row))} for row in rows]


def some(things: list, most: int, rng: np.random.Generator) -> list:
    return [things[n] for n in rng.permutation(len(things))[:most]]


def read_digits(drawings: list[Drawing], recognizer: Recognizer) -> dict[str, str]:
    """Each alone on the pad."""
    answers = [split(drawing, recognizer) for drawing in tqdm(drawings, leave=False)]
    pairs = list(zip(answers, drawings, strict=True))
    return {
        "drawings": f"{len(pairs):,}",
        "counted wrong": percent(len(answer) != 1 for answer, _ in pairs),
        "read right": percent(as_text(answer) == str(drawing.label) for answer, drawing in pairs),
        "not sure": percent("?" in as_text(answer) for answer, _ in pairs),
    }


def read_numbers(digits: list[Drawing], count: int, recognizer: Recognizer, rng) -> dict[str, str]:
    """Two to five of `digits` in a row, 0.15–0.6 of their height apart."""
    pairs = []
    for _ in tqdm(range(count), leave=False):
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


def read_pictures(pictures: list[tuple[object, str]], recognizer: Recognizer) -> dict[str, str]:
    """Pictures, each with the number in it."""
    texts = [text_in(picture, recognizer) for picture, _ in tqdm(pictures, leave=False)]
    pairs = list(zip(texts, (number for _, number in pictures), strict=True))
    return {
        "drawings": f"{len(pairs):,}",
        "counted wrong": percent(len(text) != len(number) for text, number in pairs),
        "read right": percent(text == number for text, number in pairs),
        "not sure": percent("?" in text for text, _ in pairs),
    }


def refuse(drawings: list[Drawing], recognizer: Recognizer) -> dict[str, str]:
    """Drawings of no digit."""
    texts = [as_text(split(drawing, recognizer)) for drawing in tqdm(drawings, leave=False)]
    return {"drawings": f"{len(texts):,}", "not sure": percent("?" in text or not text for text in texts)}


def text_in(picture, recognizer: Recognizer) -> str:
    try:
        return read(picture, recognizer).text
    except MnistKitError:
        return "?"


def percent(cases: Iterable[bool]) -> str:
    cases = list(cases)
    return f"{sum(cases) / len(cases):.1%}"


if __name__ == "__main__":
    sys.exit(main())
