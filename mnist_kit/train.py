"""Train from the command line: `python -m mnist_kit.train --recipe paper`."""

import argparse
import sys

import torch

from mnist_kit.checkpoints import check_name, save_weights
from mnist_kit.data import SOURCES, load_mnist
from mnist_kit.errors import MnistKitError
from mnist_kit.history import save_history
from mnist_kit.live import ProgressLine
from mnist_kit.models import MODELS, make_model
from mnist_kit.recipes import RECIPES, get_recipe, recipe_for
from mnist_kit.training import as_device, fit


def main(arguments: list[str] | None = None) -> int:
    """Train, then save weights and history under one name. Returns the exit status: 0; with a line on
    stderr 1 when it was stopped before there was anything to save, 2 for bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m mnist_kit.train", description="Train a digit recogniser.")
    parser.add_argument("--recipe", help=f"{', '.join(RECIPES)}; default: what fits this machine")
    parser.add_argument("--data", default="mnist", help=f"the data set: {', '.join(SOURCES)}")
    parser.add_argument("--model", default="Net", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the fastest at hand")
    parser.add_argument("--name", help="save weights and history as this; default: class-<data>")
    options = parser.parse_args(arguments)
    name = options.name or f"class-{options.data}"
    try:
        check_name(name)  # now, not after an hour of training
        device = as_device(options.device)
        recipe = get_recipe(options.recipe) if options.recipe else recipe_for(device)
        digits = load_mnist(options.data)
        torch.manual_seed(recipe.seed)
        model = make_model(options.model)
        history = fit(model, digits, recipe, [ProgressLine()], device)
        if history.epochs.empty:
            print("stopped before the first epoch was over: nothing is saved", file=sys.stderr)
            return 1
        print(save_history(history, name))
        print(save_weights(model, name, recipe, history.epochs.val_accuracy.iloc[-1], options.data))
    except MnistKitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
