"""Trains every network of `mnist_kit.architectures` with several seeds: the table behind notebook 10.

    python tools/architectures.py OUT.csv --seeds 0-2

All by one recipe, on MNIST's first 50,000 training images. After its last epoch each network answers the last 10,000
training images (validation) and, once, the test images; nothing is chosen by either. What is trained is kept in
`architectures/` of the home folder, so that a second call goes on with what is lacking. The CSV has a row per network
and seed; `mistakes` holds what went wrong, as "image:digit>answer", so that votes can be counted from it.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from mnist_kit import Digits, Evaluation, Recipe, evaluate, fit, home_folder, load_mnist
from mnist_kit.architectures import ARCHITECTURES
from mnist_kit.files import append_line, write_atomically
from mnist_kit.models import summary

RECIPE = Recipe("architectures", 2, learning_rate=0.005, schedule="one-cycle", dropout=0.0, precision="auto")


def operations(model: torch.nn.Module) -> int:
    """Floating-point operations of convolutions and products for one image; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops()


def scores(evaluation: Evaluation, split: str) -> dict[str, float | str]:
    """accuracy, and the means over the digits of precision, recall and F1 (0 where undefined); mistakes."""
    wrong = (~evaluation.correct).nonzero()[:, 0].tolist()
    digits, answers = evaluation.labels.tolist(), evaluation.predictions.tolist()
    means = evaluation.per_digit[["precision", "recall", "f1"]].fillna(0).mean().round(5)
    mistakes = " ".join(f"{image}:{digits[image]}>{answers[image]}" for image in wrong)
    row = {"accuracy": evaluation.accuracy, **means, "mistakes": mistakes}
    return {f"{split}_{name}": value for name, value in row.items()}


def train(name: str, seed: int, digits: Digits) -> dict:
    """The row of one network and seed. Seconds per epoch are the median step's, so that a busy moment counts little."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name]()
    row = {"network": name, "seed": seed, "parameters": summary(model).sizes["parameters"]}
    row["flops"] = operations(model)
    validation = digits.validation(10_000)
    history = fit(model.to(memory_format=torch.channels_last), validation, RECIPE.but(seed=seed), device="cpu")
    steps = RECIPE.steps_per_epoch(len(validation.train))
    row |= {"epochs": RECIPE.epochs, "train_images": len(validation.train), "threads": torch.get_num_threads()}
    row["epoch_seconds"] = round(history.steps.seconds.median() * steps, 2)
    for split, images in {"validation": validation.test, "test": digits.test}.items():
        row |= scores(evaluate(model, images, "cpu"), split)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="the CSV file to write")
    parser.add_argument("--seeds", default="0-2", help="the first and the last, as 0-2")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    kept, digits = home_folder() / "architectures" / "runs.jsonl", load_mnist()
    lines = kept.read_text().splitlines() if kept.exists() else []
    rows = {(row["network"], row["seed"]): row for row in map(json.loads, lines)}
    wanted = [(name, seed) for seed in range(first, last + 1) for name in ARCHITECTURES]
    for key in tqdm([key for key in wanted if key not in rows], mininterval=10):
        rows[key] = train(*key, digits)
        append_line(kept, json.dumps(rows[key]))
    table = pd.DataFrame([rows[key] for key in wanted])
    write_atomically(options.table, table.to_csv(index=False).encode())
    print(table[[column for column in table if not column.endswith("mistakes")]].to_string())


if __name__ == "__main__":
    main()
