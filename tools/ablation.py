"""What each part of the reading network's training is worth: a table, in about 20 minutes on one core.

    python tools/ablation.py UNIPEN_FOLDER OUT.csv --drawn FILE.npz

Each row is a training of 300 steps with one thing more than the row above it; the last one is `reader-left-out`, which
has been trained by the whole recipe. Measured on what none of them was shown: the sites that were left out, and MNIST's
last 10,000 training images. `--drawn` keeps the training images, as in `train_reader.py`. A second call goes on with
the rows that are lacking.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hands import lines_of, shape_of
from torch import nn
from tqdm import tqdm
from train_reader import (
    CLASSES,
    NO_DIGIT,
    RECIPE,
    VALIDATION,
    Measured,
    draw_all,
    kept_drawings,
    logits_of,
    read_characters,
    shown,
    whole,
)

from mnist_kit import load_mnist, load_weights
from mnist_kit.data import Digits, Split
from mnist_kit.files import write_atomically
from mnist_kit.models import ReadingNet
from mnist_kit.training import fit

LEFT_OUT = ("apb", "ced", "ibm", "lou")
STEPS = 300
PLAIN = RECIPE.but(epochs=1, augmentation=None, label_smoothing=0.0, ema=None)
NONE = ("sign", "row", "synthetic_row", "images_in_a_row", "shape", "speck")  # kinds of `draw_all` that are no digit
ROWS = {  # what is shown beside MNIST, and by which recipe
    "MNIST alone": ((), PLAIN),
    "+ augmentation": ((), PLAIN.but(augmentation=RECIPE.augmentation)),
    "+ drawn styles": (("synthetic",), PLAIN.but(augmentation=RECIPE.augmentation)),
    "+ pens of people": (("synthetic", "digit"), PLAIN.but(augmentation=RECIPE.augmentation)),
    "+ no digit": (("synthetic", "digit", *NONE), PLAIN.but(augmentation=RECIPE.augmentation)),
    "+ photographs": (("synthetic", "digit", *NONE, "photographed"), PLAIN.but(augmentation=RECIPE.augmentation)),
    "+ label smoothing": (("synthetic", "digit", *NONE, "photographed"), RECIPE.but(epochs=1, ema=None)),
    "+ averaged weights": (("synthetic", "digit", *NONE, "photographed"), RECIPE.but(epochs=1, ema=0.99)),
}


def train(mnist: Split, drawn: dict[str, np.ndarray], row: str, seed: int) -> nn.Module:
    """A network after STEPS steps by the recipe of `row`."""
    kinds, recipe = ROWS[row]
    pool = shown(mnist, drawn, np.isin(drawn["kinds"], kinds) & ~np.isin(drawn["sites"], LEFT_OUT))
    chosen = torch.from_numpy(np.random.default_rng(seed).integers(len(pool), size=STEPS * recipe.batch_size))
    split = Split(pool.images[chosen], pool.labels[chosen])
    torch.manual_seed(seed)
    network = ReadingNet().to(memory_format=torch.channels_last)
    fit(network, Digits("ablation", split, mnist.first(1), CLASSES), recipe.but(seed=seed), device="cpu")
    return network


def measure(network: nn.Module, measured: Measured) -> dict[str, float]:
    """The shares read right, and of signs refused where six in a thousand of the clear digits are doubted."""
    about = measured.calibrate(network)
    figures = measured.report(network, about["temperature"], about["threshold"])
    columns = {"mnist": "MNIST", "pens": "people", "ibm": "ibm", "ced": "ced", "apb": "apb"}
    styles = {
        "slashed zeros": [c.sign == "0" and len(c.drawing.strokes) > 1 for c in measured.digits],
        "flagged ones": [c.sign == "1" and shape_of(lines_of(c.drawing))[0] > 0.15 for c in measured.digits],
    }
    answers = logits_of(network, measured.pens.images)[:, :NO_DIGIT].argmax(dim=1)
    right = (answers == measured.pens.labels).float()
    shares = {name: right[torch.tensor(chosen)].mean().item() for name, chosen in styles.items()}
    row = {new: figures[old] for old, new in columns.items()} | shares | {"signs refused": figures["signs refused"]}
    return {name: round(share, 4) for name, share in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="UNIPEN's, or one with digits.jsonl and signs.jsonl")
    parser.add_argument("table", type=Path, help="a CSV file; rows that it has already are kept")
    parser.add_argument("--drawn", type=Path, help="an .npz file that keeps what is drawn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    mnist = load_mnist().train
    mnist, test = mnist.first(len(mnist) - VALIDATION), Split(mnist.images[-VALIDATION:], mnist.labels[-VALIDATION:])
    characters = [character for character in read_characters(options.folder) if whole(character)]
    drawn = kept_drawings(options.drawn, lambda: draw_all(characters, mnist.images[:, 0].numpy(), options.seed))
    measured = Measured([character for character in characters if character.site in LEFT_OUT], test)
    rows = pd.read_csv(options.table, index_col=0).to_dict("index") if options.table.exists() else {}
    last = "the whole recipe"
    for name in tqdm([name for name in (*ROWS, last) if name not in rows], mininterval=10):
        if name == last:
            steps = RECIPE.epochs * (len(shown(mnist, drawn, ~np.isin(drawn["sites"], LEFT_OUT))) // RECIPE.batch_size)
            network = load_weights("reader-left-out")
        else:
            steps, network = STEPS, train(mnist, drawn, name, options.seed)
        rows[name] = {"steps": steps} | measure(network, measured)
        write_atomically(options.table, pd.DataFrame.from_dict(rows, "index").rename_axis("step").to_csv().encode())
    print(pd.DataFrame.from_dict(rows, "index"))


if __name__ == "__main__":
    main()
