"""What to train with: frozen settings, and which of them fits this machine."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches

from mnist_kit.errors import RecipeError

SCHEDULES = ("step", "one-cycle")


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam on the cross-entropy, in full batches, with a learning-rate schedule.

    epochs: passes over the training images; the images left over after the last full batch of an epoch are skipped.
    learning_rate: of Adam; with "one-cycle" the peak.
    schedule: "step" multiplies the learning rate by `gamma` every `step_epochs` epochs; "one-cycle" raises it to the
        peak over the first 30 % of the steps and lowers it to almost nothing, while Adam's β1 goes from 0.95 to 0.85
        and back (L. Smith, "Super-convergence", 2017; torch's OneCycleLR).
    train_images: use only the first so many images (None: all of them).
    dropout: the share of inputs that the model's `nn.Dropout` layers switch off in training (None: as the model has
        it). It keeps a long training from learning the images by heart; in a short one the network only learns less.
    seed: of the initial shuffle and of dropout.
    bfloat16: compute products in bfloat16 on a processor that has instructions for it, which then takes about half the
        time; elsewhere in float32. A CUDA GPU always does.
    promised_accuracy: the fraction of MNIST's test images that this recipe has been seen to pass with `Net`.

    Raises RecipeError for values that make no sense.
    """

    name: str
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.003
    schedule: str = "step"
    step_epochs: int = 7
    gamma: float = 0.1
    train_images: int | None = None
    dropout: float | None = None
    seed: int = 0
    bfloat16: bool = False
    promised_accuracy: float = 0.0

    def __post_init__(self):
        for field, least in {"epochs": 1, "batch_size": 2, "step_epochs": 1}.items():  # batch norm: no batch of one
            if not isinstance(getattr(self, field), int) or getattr(self, field) < least:
                raise RecipeError(f"{field} must be a whole number of at least {least}, not {getattr(self, field)!r}")
        for field in ("learning_rate", "gamma"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise RecipeError(f"{field} must be a positive number, not {value!r}")
        if self.schedule not in SCHEDULES:
            raise RecipeError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if self.train_images is not None and (not isinstance(self.train_images, int) or self.train_images < 1):
            raise RecipeError(f"train_images must be a whole number of at least 1 or None, not {self.train_images!r}")
        if self.dropout is not None and not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise RecipeError(f"dropout must be a share from 0 to below 1 or None, not {self.dropout!r}")
        if not isinstance(self.bfloat16, bool):
            raise RecipeError(f"bfloat16 must be True or False, not {self.bfloat16!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise RecipeError(f"seed must be a whole number from 0 to 2^63 - 1, not {self.seed!r}")

    def steps_per_epoch(self, images: int) -> int:
        """How many full batches an epoch over `images` training images has. Raises RecipeError when there is none."""
        images = min(images, self.train_images or images)
        if self.batch_size > images:
            raise RecipeError(
                f"batch_size {self.batch_size} is larger than the {images} training images: no full batch fits"
            )
        return images // self.batch_size

    def but(self, **settings) -> "Recipe":
        """This recipe with other `settings`. Raises RecipeError for an unknown one, with the nearest right name."""
        names = [field.name for field in fields(self)]
        for name in settings:
            if name not in names:
                raise RecipeError(_unknown("a recipe has no setting", name, names))
        return replace(self, **settings)

    def as_dict(self) -> dict:
        """The settings by name, as plain values."""
        return asdict(self)


# Listing 2.2 of the paper: 25 epochs of 468 full batches are 11,700 steps.
PAPER = Recipe("paper", epochs=25, learning_rate=0.003, schedule="step", promised_accuracy=0.992)
# For a CPU: a few epochs under one cycle reach what a stepped schedule needs many more for. Chosen on the last 10,000
# training images, with the others to train on.
QUICK = Recipe(
    "quick", epochs=3, learning_rate=0.01, schedule="one-cycle", dropout=0.0, bfloat16=True, promised_accuracy=0.992
)
# To see everything run once: seconds of training, an accuracy to match.
SMALL = Recipe("small", epochs=2, learning_rate=0.01, schedule="one-cycle", train_images=6_400, promised_accuracy=0.90)

RECIPES = {recipe.name: recipe for recipe in (PAPER, QUICK, SMALL)}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises RecipeError, with the nearest right name, for an unknown one."""
    if name in RECIPES:
        return RECIPES[name]
    raise RecipeError(_unknown("there is no recipe called", name, RECIPES))


def _unknown(complaint: str, name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name.lower(), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{complaint} {name!r}{hint} There are: {', '.join(names)}"


def recipe_for(device) -> Recipe:
    """The recipe that fits `device` (a torch.device or its name): PAPER on a GPU, QUICK on a CPU.

    The environment variable MNIST_KIT_RECIPE overrides it by name ("paper", "quick", "small").
    """
    chosen = os.environ.get("MNIST_KIT_RECIPE")
    if chosen:
        return get_recipe(chosen)
    return QUICK if str(device).startswith("cpu") else PAPER
