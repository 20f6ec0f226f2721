"""What can be done from the command line: `python -m mnist_kit train --recipe paper`."""

import argparse
import os
import re
import signal
import sys
from ast import literal_eval
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import torch

from mnist_kit import export, reading
from mnist_kit.checkpoints import Checkpoints, check_name, load_weights, save_weights
from mnist_kit.data import SOURCES, Split, load_mnist
from mnist_kit.device import as_device
from mnist_kit.distributed import World, contact, join
from mnist_kit.errors import ContactLost, MnistKitError, RecipeError, WeightsError
from mnist_kit.evaluation import evaluate
from mnist_kit.files import home_folder, write_atomically
from mnist_kit.history import save_history
from mnist_kit.live import ProgressLine
from mnist_kit.models import MODELS, make_model
from mnist_kit.recipes import RECIPES, Recipe, get_recipe, recipe_for
from mnist_kit.signals import END_SIGNALS, handling
from mnist_kit.synthetic import make_digits
from mnist_kit.training import fit

STOPPED = 130  # exit status, as of a command that Ctrl+C ended
MOST_SEEDS = 10_000


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0; with a line on stderr 130 when it was stopped, 2 for bad input or a
    command that failed.
    """
    for stream in (sys.stdout, sys.stderr):  # a pipe may know no more than ASCII
        with suppress(AttributeError):  # none at all, or another's
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="python -m mnist_kit", description="What mnist_kit can do in a shell.")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    add_train(commands)
    reading.add_command(commands)
    export.add_command(commands)
    options = parser.parse_args(arguments)
    try:
        # Stop as Ctrl+C does: a scheduler, or the end of a remote session, says it with these.
        with handling(END_SIGNALS, signal.default_int_handler), contact():
            return options.run(options)
    except MnistKitError as error:
        # Other errors come to all processes alike, or to those of one machine.
        if isinstance(error, ContactLost) or os.environ.get("LOCAL_RANK", "0") == "0":
            print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _stopped(World())


def add_train(commands: argparse._SubParsersAction) -> None:
    """`train`: weights, history and checkpoints of a network, or of one per seed."""
    parser = commands.add_parser(
        "train",
        help="train a network",
        description="Train a network. Under torchrun (`torchrun --nproc-per-node 2 -m mnist_kit train …`) the "
        "processes train one together, or with several seeds one each.",
    )
    change = "change a setting of the recipe, such as epochs=3; may be repeated"
    parser.add_argument("--recipe", help=f"{', '.join(RECIPES)} (several networks); default: what fits this machine")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=change)
    parser.add_argument("--data", default="mnist", help=f"the data set: {', '.join(SOURCES)}, synthetic")
    parser.add_argument("--model", help=f"the network: {', '.join(MODELS)}; default: what the recipe was chosen for")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the fastest of this machine")
    parser.add_argument("--name", help="save weights, history and checkpoints as this; default: <recipe>-<data>")
    parser.add_argument("--every", type=int, help="steps between checkpoints; default: 1 %% of the time for them")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    several = "one model each for seeds like 0-9 or 3,5,8, a table of them and their committee; default: the recipe's"
    parser.add_argument("--seeds", help=several)
    parser.set_defaults(run=train)


def train(options: argparse.Namespace) -> int:
    """Train by the `options` of `add_train`, save under one name and return the exit status."""
    device = as_device(options.device)
    recipe = get_recipe(options.recipe) if options.recipe else recipe_for(device)
    recipe = recipe.but(**dict(parse_setting(text) for text in options.settings))
    if options.seeds is None:
        seeds = list(range(recipe.seed, recipe.seed + recipe.members)) if recipe.members > 1 else None
    else:
        seeds = parse_seeds(options.seeds)
    processes = join(timedelta(days=7) if seeds else None)  # a run of another seed may take its time
    device = processes.own(device)
    name = options.name or f"{recipe.name}-{options.data}"
    check_name(name)  # now, not after an hour of training
    recipe = recipe.but(network=options.model or recipe.network)
    make_model(recipe.network)
    digits = processes.from_first(lambda: make_digits() if options.data == "synthetic" else load_mnist(options.data))

    def run(name: str, recipe: Recipe, processes: World, title: str = "") -> pd.DataFrame | None:
        """The table of epochs of a run that was saved; None when it was stopped: its checkpoint has all there is."""
        if options.resume and processes.is_first and not Checkpoints(name).states():
            print(f"there is no checkpoint {name!r} yet: starting with the first step", file=sys.stderr)
        torch.manual_seed(recipe.seed)
        model = make_model(recipe.network)
        progress = ProgressLine(title=title)
        history = fit(model, digits, recipe, progress, device, name, options.every, options.resume, processes)
        if history.about["interrupted"]:
            return None
        if processes.is_first:
            accuracy = history.epochs["val_accuracy"].iloc[-1]
            print(save_history(history, name), save_weights(model, name, recipe, accuracy, options.data), sep="\n")
        return history.epochs

    if seeds:
        table = _train_seeds(run, name, recipe, seeds, processes)
        if table is None:
            return _stopped(processes)
        members = [f"{name}-seed-{seed}" for seed in table.dropna()["seed"]]
        if processes.is_first and len(members) > 1:
            _print_committee(members, recipe.network, digits.test, device)
        return 2 if table["val_accuracy"].isna().any() else 0
    return _stopped(processes) if run(name, recipe, processes) is None else 0


def _train_seeds(run: Callable, name: str, recipe: Recipe, seeds: list[int], processes: World) -> pd.DataFrame | None:
    """A row per seed, NaN where a run failed; the first process prints and saves it. None: it was stopped."""
    rows = []
    for seed in seeds[processes.rank :: processes.size]:
        rows.append({"seed": seed})
        try:
            epochs = run(f"{name}-seed-{seed}", replace(recipe, seed=seed, members=1), World(), f"seed {seed}")
        except MnistKitError as error:  # the other seeds are no worse for it
            print(f"seed {seed} failed: {error}", file=sys.stderr)
            continue
        if epochs is None:
            return None
        last = epochs.iloc[-1]
        rows[-1] |= {"val_accuracy": last.val_accuracy, "best_val_accuracy": epochs.val_accuracy.max()}
        rows[-1] |= {"val_loss": last.val_loss, "seconds": epochs.seconds.sum()}
    columns = ["seed", "val_accuracy", "best_val_accuracy", "val_loss", "seconds"]
    table = pd.DataFrame([row for part in processes.gather(rows) for row in part], columns=columns).sort_values("seed")
    if processes.is_first:
        path = write_atomically(home_folder() / "runs" / f"{name}-seeds.csv", table.to_csv(index=False).encode())
        summary = table.drop(columns="seed").agg(["mean", "std"])
        print(table.to_string(index=False), summary.to_string(), path, sep="\n\n")
    return table


def _print_committee(names: list[str], network: str, test: Split, device: torch.device) -> None:
    """How many test images the weights called `names` get right together, by the mean of their probabilities."""
    try:
        members = (evaluate(load_weights(name, make_model(network)), test, device) for name in names)
        answers = sum(member.probabilities for member in members).argmax(1)
    except WeightsError as error:  # they are on another machine
        print(f"no committee: {error}", file=sys.stderr)
    else:
        print(f"\nall {len(names)} as a committee: {(answers == test.labels).double().mean():.2%}")


def parse_seeds(text: str) -> list[int]:
    """The numbers of "0-9", "3,5,8" or both mixed. Raises RecipeError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part, re.ASCII)
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (0, -1)
        if not 0 <= last - first < MOST_SEEDS:
            raise RecipeError(f"--seeds takes numbers like 0-9 or 3,5,8, at most {MOST_SEEDS:,}, not {text!r}")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_setting(text: str) -> tuple[str, object]:
    """The name and the value of "epochs=3". Raises RecipeError for anything else."""
    name, sign, value = text.partition("=")
    if not sign:
        raise RecipeError(f"--set takes a name and a value, as in epochs=3, not {text!r}")
    try:
        return name, literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: of a thousand brackets or signs
        return name, value


def _stopped(processes: World) -> int:
    if processes.is_first:
        print("stopped; the same command with --resume continues", file=sys.stderr)
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
