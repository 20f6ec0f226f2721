"""How pictures of one digit are read: right and sure, wrong and sure, not sure (one table, some minutes on a CPU):

    python tools/measure_pictures.py pictures drawings.jsonl

pictures: a folder with an index.csv whose columns are file, label, mode ("single") and kind. drawings.jsonl: digits,
which `mnist_kit.simulate` photographs.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from mnist_kit.errors import EmptyDrawing
from mnist_kit.ink import Drawing, read_drawings
from mnist_kit.recognizer import Recognizer
from mnist_kit.simulate import PhotoSettings, photograph

SEED = 3_000_000  # of the photographs; training counts from 0
PHOTOS = {  # a few kinds, each as hard as they come
    "photos": PhotoSettings(),
    "photos, lines as dark as pencil": PhotoSettings(lines=("ruled", "squared"), line_contrast=(0.25, 0.5)),
    "photos, pencil": PhotoSettings(colours=("pencil",), grain=(4, 12)),
    "photos, dark corners and shadows": PhotoSettings(vignette=(0.3, 0.7), shadow=(0.2, 0.6)),
    "photos, edge of the sheet in view": PhotoSettings(edge=1),
    "photos of 28–60 px": PhotoSettings(side=(28, 60), blur=(0, 1), digit=(0.5, 0.9)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("drawings", type=Path)
    parser.add_argument("--photos", type=int, default=200, help="of each kind")
    parser.add_argument("--weights", help="name or file; those that read by default")
    options = parser.parse_args()
    recognizer = Recognizer.load(options.weights) if options.weights else Recognizer.load()
    table = measure_pictures(options.pictures, recognizer)
    table |= measure_photographs(read_drawings(options.drawings), recognizer, options.photos)
    print(pd.DataFrame(table).T.to_string())


def measure_pictures(folder: Path, recognizer: Recognizer) -> dict[str, dict[str, str]]:
    """Rows for each kind of picture of a single digit in `folder`, and for all of them."""
    kinds = defaultdict(list)
    with (folder / "index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["mode"] == "single":
                kinds[row["kind"]].append((folder / row["file"], int(row["label"])))
    rows = {kind: tally(pairs, recognizer) for kind, pairs in kinds.items()}
    return {"pictures": tally([pair for pairs in kinds.values() for pair in pairs], recognizer)} | rows


def measure_photographs(drawings: list[Drawing], recognizer: Recognizer, count: int) -> dict[str, dict[str, str]]:
    """Rows for `count` photographs of each of PHOTOS, of drawings taken at random."""
    table = {}
    for seed, (kind, settings) in enumerate(PHOTOS.items(), start=SEED):
        rng = np.random.default_rng(seed)
        chosen = [drawings[index] for index in rng.integers(len(drawings), size=count)]
        table[kind] = tally(((photograph(drawing, rng, settings), drawing.label) for drawing in chosen), recognizer)
    return table


def tally(pairs: Iterable[tuple], recognizer: Recognizer) -> dict[str, str]:
    """pairs: a picture, as `as_raster` takes them, and its digit."""
    answers = []
    for picture, digit in pairs:
        try:
            prediction = recognizer.predict(picture)
            answers.append((prediction.digit == digit, prediction.sure))
        except EmptyDrawing:
            answers.append((False, False))
    right, sure = np.array(answers).T
    shares = {"right": right, "right and sure": right & sure, "wrong and sure": sure & ~right, "not sure": ~sure}
    return {"pictures": f"{len(answers):,}"} | {name: f"{share.mean():.1%}" for name, share in shares.items()}


if __name__ == "__main__":
    main()
