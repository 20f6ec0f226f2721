"""What can be done from the command line: `python -m mnist_kit train --recipe paper`."""

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
from mnist_kit.distributed import World, contact, independent, join
from mnist_kit.errors import ContactLost, MnistKitError, RecipeError
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.history import History, save_history
from mnist_kit.live import ProgressLine
from mnist_kit.models import MODELS, make_model
from mnist_kit.recipes import RECIPES, Recipe, get_recipe, recipe_for
from mnist_kit.synthetic import make_digits
from mnist_kit.training import as_device, fit

STOPPED = 130  # exit status, as of a command that Ctrl+C ended
MOST_SEEDS = 10_000


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0; with a line on stderr 130 when it was stopped, 2 for bad input or a
    command that failed.
    """
    parser = argparse.ArgumentParser(prog="python -m mnist_kit", description="What mnist_kit can do in a shell.")
    commands = parser.add_subparsers(title="commands", metavar="", required=False)
    add_train(commands)
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    # Stop as Ctrl+C does: a scheduler, or the end of a remote session, says it with these.
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        with contact():
            return options.run(options)
    except MnistKitError as error:
        # Other errors come to all processes alike, or to those of one machine.
        if isinstance(error, ContactLost) or os.environ.get("LOCAL_RANK", "0") == "0":
            print(error, file=sys.stderr)
        if "TORCHELASTIC_ERROR_FILE" in os.environ:  # what torchrun's own summary at the end tells
            told = {"message": {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}}
            Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(told))
        return 2
    except KeyboardInterrupt:
        return _stopped(World())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if dist.is_initialized():
            dist.destroy_process_group()


def add_train(commands: argparse._SubParsersAction) -> None:
    """`train`: weights, history and checkpoints of a network, or of one per seed."""
    parser = commands.add_parser(
        "train",
        help="train a network",
        description="Train a network. Under torchrun (`torchrun --nproc-per-node 2 -m mnist_kit train …`) the "
        "processes train one together, or with --seeds one each.",
    )
    change = "change a setting of the recipe, such as epochs=3; may be repeated"
    parser.add_argument("--recipe", help=f"{', '.join(RECIPES)}; default: what fits this machine")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=change)
    parser.add_argument("--data", default="mnist", help=f"the data set: {', '.join(SOURCES)}, synthetic")
    parser.add_argument("--model", default="Net", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the fastest of this machine")
    parser.add_argument("--name", help="save weights, history and checkpoints as this; default: class-<data>")
    parser.add_argument("--every", type=int, help="steps between checkpoints; default: 1 %% of the time for them")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    parser.add_argument("--seeds", help="one model each for seeds like 0-9 or 3,5,8, and a table of them")
    parser.set_defaults(run=train)


def train(options: argparse.Namespace) -> int:
    """Train by the `options` of `add_train`, save under one name and return the exit status."""
    options.name = options.name or f"class-{options.data}"
    check_name(options.name)  # now, not after an hour of training
    seeds = parse_seeds(options.seeds) if options.seeds is not None else None
    processes = join(timedelta(days=7) if seeds else None)  # a run of another seed may take its time
    device = processes.own(as_device(options.device))
    recipe = get_recipe(options.recipe) if options.recipe else recipe_for(device)
    recipe = recipe.but(**dict(parse_setting(text) for text in options.settings))
    make_model(options.model)
    digits = processes.from_first(lambda: make_digits() if options.data == "synthetic" else load_mnist(options.data))
    if seeds:
        return _train_seeds(options, digits, recipe, device, seeds, processes)
    history = _train_one(options, digits, recipe, device, options.name, processes.is_first)
    return 0 if history else _stopped(processes)


def parse_seeds(text: str) -> list[int]:
    """The numbers of "0-9", "3,5,8" or both mixed. Raises RecipeError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise RecipeError(f"--seeds takes numbers like 0-9 or 3,5,8, not {text!r}")
        if int(last or first) - int(first) >= MOST_SEEDS:
            raise RecipeError(f"--seeds takes at most {MOST_SEEDS:,} numbers, not {text!r}")
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


def _train_one(
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
    progress = ProgressLine(title=title)
    history = fit(model, digits, recipe, progress, device, checkpoint=name, every=options.every, resume=options.resume)
    if history.about["interrupted"]:
        return None
    if saves:
        accuracy = history.epochs["val_accuracy"].iloc[-1]
        print(save_history(history, name), save_weights(model, name, recipe, accuracy, options.data), sep="\n")
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
            name, seeded = f"{options.name}-seed-{seed}", replace(recipe, seed=seed)
            try:
                history = _train_one(options, digits, seeded, device, name, True, f"seed {seed}")
            except MnistKitError as error:  # the other seeds are no worse for it
                print(f"seed {seed} failed: {error}", file=sys.stderr)
                rows.append((seed, *[math.nan] * 4))
                continue
            if history is None:
                return _stopped(processes)
            epochs = history.epochs
            last = epochs.iloc[-1]
            rows.append((seed, last.val_accuracy, epochs.val_accuracy.max(), last.val_loss, epochs.seconds.sum()))
    rows = sorted(row for part in processes.gather(rows) for row in part)
    table = pd.DataFrame(rows, columns=["seed", "val_accuracy", "best_val_accuracy", "val_loss", "seconds"])
    if processes.is_first:
        buffer = io.StringIO()
        table.to_csv(buffer, index=False)
        path = write_atomically(home_folder() / "runs" / f"{options.name}-seeds.csv", buffer.getvalue().encode())
        summary = table.drop(columns="seed").agg(["mean", "std"])
        print(table.to_string(index=False), summary.to_string(), path, sep="\n\n")
    return 2 if table["val_accuracy"].isna().any() else 0


def _stopped(processes: World) -> int:
    if processes.is_first:
        print("stopped; the same command with --resume continues", file=sys.stderr)
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
