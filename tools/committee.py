"""What networks of one recipe and several seeds come to, alone and together: the tables behind notebook 10's last part.

    python -m mnist_kit train --recipe committee
    python tools/committee.py mnist_kit/reference

`committee.csv` has a row per group of members, of one to all: `mnist`, the fraction of MNIST's test images their mean
probabilities get right; and, where QMNIST can be had, `qmnist`, the same of its other 50,000 test images, by which
nothing was chosen. `committee_misread.csv` has a row per test image of MNIST that at least one member misreads: how
many do, and what all together say. The first command writes the table of each network alone,
`runs/committee-mnist-seeds.csv` of the home folder, which the package has as `reference/committee_seeds.csv`.
"""

import argparse
from itertools import combinations
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mnist_kit import COMMITTEE, DataError, evaluate, load_mnist, load_weights
from mnist_kit.data import Split
from mnist_kit.evaluation import Evaluation
from mnist_kit.files import write_atomically


def test_images() -> dict[str, Split]:
    """By name; QMNIST's test images without its first 10,000, which are MNIST's own."""
    splits = {"mnist": load_mnist().test}
    try:
        others = load_mnist("qmnist").test
        splits["qmnist"] = Split(others.images[10_000:], others.labels[10_000:])
    except DataError as error:
        print(f"left out: {error}")
    return splits


def misread(evaluations: list[Evaluation]) -> pd.DataFrame:
    """A row per image that somebody misreads: its place, its label, the committee's answer, and how many misread it."""
    errors = sum((~evaluation.correct).int() for evaluation in evaluations)
    places = errors.nonzero()[:, 0]
    together = sum(evaluation.probabilities for evaluation in evaluations).argmax(1)
    columns = {"label": evaluations[0].labels, "answer": together, "members": errors}
    return pd.DataFrame({"image": places.numpy()} | {name: values[places].numpy() for name, values in columns.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the tables")
    parser.add_argument("--weights", default="committee-mnist", help="their name, before -seed-0; default: %(default)s")
    parser.add_argument("--members", type=int, default=COMMITTEE.members, help="how many; default: %(default)s")
    options = parser.parse_args()
    models = [load_weights(f"{options.weights}-seed-{seed}") for seed in range(options.members)]
    answers = {
        name: [evaluate(model, split, "cpu") for model in tqdm(models, desc=name)]
        for name, split in test_images().items()
    }
    rows = []
    for size in range(1, len(models) + 1):
        for group in combinations(range(len(models)), size):
            row = {"members": size, "seeds": " ".join(map(str, group))}
            for name, evaluations in answers.items():
                mean = sum(evaluations[seed].probabilities for seed in group)
                row[name] = (mean.argmax(1) == evaluations[0].labels).double().mean().item()
            rows.append(row)
    for name, table in ("committee", pd.DataFrame(rows)), ("committee_misread", misread(answers["mnist"])):
        write_atomically(options.folder / f"{name}.csv", table.to_csv(index=False).encode())
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
