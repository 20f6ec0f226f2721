"""Train from the command line: `python -m mnist_kit.train --recipe paper`.

The same under `torchrun --nproc-per-node 2 -m mnist_kit.train …` trains with two processes: one model together, or with
`--seeds 0-9` ten models one by one, as many at a time as there are processes.
"""

import argparse
import io
import json
import math
import os
import signal
import sys
import time
from ast import literal_eval
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pandas as pd
import torch
import torch.distributed as dist

from mnist_kit.checkpoints import Checkpoints, check_name, save_weights
from mnist_kit.data import SOURCES, Digits, load_mnist
from mnist_kit.errors import ContactLost, MnistKitError, RecipeError
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.history import History, save_history
from mnist_kit.live import ProgressLine
from mnist_kit.models import MODELS, make_model
from mnist_kit.parallel import World, contact, independent, join
from mnist_kit.recipes import RECIPES, Recipe, get_recipe, recipe_for
from mnist_kit.synthetic import make_digits
from mnist_kit.training import as_device, fit

SETTINGS = "change a setting of the recipe, such as epochs=3; may be repeated"
STOPPED = 130  # exit status, as of a command that Ctrl+C ended


def main(arguments: list[str] | None = None) -> int:
    """Train, then save weights and history under one name. Returns the exit status: 0; with a line on stderr 130 when
    it was stopped, 2 for bad input or a run that failed.
    """
    parser = argparse.ArgumentParser(prog="python -m mnist_kit.train", description="Train a digit recogniser.")
    parser.add_argument("--recipe", help=f"{', '.join(RECIPES)}; default: what fits this machine")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=SETTINGS)
    parser.add_argument("--data", default="mnist", help=f"the data set: {', '.join(SOURCES)}, synthetic")
    parser.add_argument("--model", default="Net", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the fastest at hand")
    parser.add_argument("--name", help="save weights, history and checkpoints as this; default: class-<data>")
    parser.add_argument("--every", type=int, help="steps between checkpoints; default: 1 %% of the time for them")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--seeds", help="one model each for seeds like 0-9 or 3,5,8, and a table of them")
    options = parser.parse_args(arguments)
    options.name = options.name or f"class-{options.data}"
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # a scheduler's way to stop
    try:
        with contact():
            check_name(options.name)  # now, not after an hour of training
            seeds = parse_seeds(options.seeds) if options.seeds else None
            processes = join(timedelta(days=7) if seeds else None)  # a run of another seed may take its time
            device = processes.own(as_device(options.device))
            recipe = get_recipe(options.recipe) if options.recipe else recipe_for(device)
            recipe = recipe.but(**dict(parse_setting(text) for text in options.settings))
            make_model(options.model)
            digits = processes.from_first(lambda: _load(options.data))
            if seeds:
                return _train_seeds(options, digits, recipe, device, seeds, processes)
            return _report(_train(options, digits, recipe, device, options.name, processes.is_first), processes)
    except MnistKitError as error:
        # Other errors come to all processes alike, or to those of a machine.
        if isinstance(error, ContactLost) or int(os.environ.get("LOCAL_RANK", 0)) == 0:
            print(error, file=sys.stderr)
        if "TORCHELASTIC_ERROR_FILE" in os.environ:  # what torchrun's own summary at the end tells
            told = {"message": {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}}
            Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(told))
        return 2
    except KeyboardInterrupt:
        return _report(None, World())
    finally:
        signal.signal(signal.SIGTERM, before)
        if dist.is_initialized():
            dist.destroy_process_group()


def _load(name: str) -> Digits:
    return make_digits() if name == "synthetic" else load_mnist(name)


def parse_seeds(text: str) -> list[int]:
    """The numbers of "0-9", "3,5,8" or both mixed. Raises RecipeError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise RecipeError(f"--seeds takes numbers like 0-9 or 3,5,8, not {text!r}")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


def parse_setting(text: str) -> tuple[str, object]:
    """The name and the value of "epochs=3". Raises RecipeError for anything else."""
    name, sign, value = text.partition("=")
    if not sign:
        raise RecipeError(f"--set takes a name and a value, as in epochs=3, not {text!r}")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _train(
    options: argparse.Namespace,
    digits: Digits,
    recipe: Recipe,
    device: torch.device,
    name: str,
    saves: bool,
    title: str = "",
) -> History | None:
    """The history of a run, saved along with its weights; None when it was stopped: its checkpoint has all there is."""
    if options.resume and saves and not Checkpoints(name).exist():
        print(f"there is no checkpoint {name!r} yet: starting with the first step", file=sys.stderr)
    torch.manual_seed(recipe.seed)
    model = make_model(options.model)
    progress = [ProgressLine(title=title)]
    history = fit(model, digits, recipe, progress, device, checkpoint=name, every=options.every, resume=options.resume)
    if history.about["interrupted"]:
        return None
    if saves:
        paths = [
            save_history(history, name),
            save_weights(model, name, recipe, history.epochs.val_accuracy.iloc[-1], options.data),
        ]
        print(*paths, sep="\n", flush=True)
    return history


def _train_seeds(
    options: argparse.Namespace,
    digits: Digits,
    recipe: Recipe,
    device: torch.device,
    seeds: list[int],
    processes: World,
) -> int:
    rows = []
    with independent():
        for seed in seeds[processes.rank :: processes.size]:
            name, title = f"{options.name}-seed-{seed}", f"seed {seed}"
            try:
                history = _train(options, digits, replace(recipe, seed=seed), device, name, True, title)
            except MnistKitError as error:  # the other seeds are no worse for it
                print(f"seed {seed} failed: {error}", file=sys.stderr)
                rows.append((seed, *[math.nan] * 4))
                continue
            if history is None:
                return _report(None, processes)
            last = history.epochs.iloc[-1]
            rows.append(
                (
                    seed,
                    last.val_accuracy,
                    history.epochs.val_accuracy.max(),
                    last.val_loss,
                    history.epochs.seconds.sum(),
                )
            )
    rows = sorted(row for part in processes.gather_objects(rows) for row in part)
    table = pd.DataFrame(rows, columns=["seed", "val_accuracy", "best_val_accuracy", "val_loss", "seconds"])
    if processes.is_first:
        path = home_folder() / "runs" / f"{options.name}-seeds.csv"
        buffer = io.StringIO()
        table.to_csv(buffer, index=False)
        write_atomically(path, buffer.getvalue().encode())
        summary = table.drop(columns="seed").agg(["mean", "std"])
        print(table.to_string(index=False), summary.to_string(), path, sep="\n\n")
    return 2 if table["val_accuracy"].isna().any() else 0


def _report(history: History | None, processes: World) -> int:
    if history is not None:
        return 0
    if processes.is_first:
        print("stopped; the same command with --resume goes on", file=sys.stderr)
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
