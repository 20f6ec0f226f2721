"""What to train with: frozen settings, and which of them fits this machine."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from math import inf

from mnist_kit.augment import Augmentation
from mnist_kit.errors import RecipeError

SCHEDULES = ("step", "one-cycle")
PRECISIONS = ("auto", "float32", "bfloat16")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object, least: float = 0.0, below: float = inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < below


# Per setting: whether a value makes sense, and what does.
_WANTED = {
    "epochs": (lambda value: _whole(value, 1), "a whole number of at least 1"),
    "batch_size": (lambda value: _whole(value, 2), "a whole number of at least 2"),  # batch norm: no batch of one
    "step_epochs": (lambda value: _whole(value, 1), "a whole number of at least 1"),
    "learning_rate": (lambda value: _number(value) and value > 0, "a positive number"),
    "gamma": (lambda value: _number(value) and value > 0, "a positive number"),
    "schedule": (lambda value: value in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
    "train_images": (lambda value: value is None or _whole(value, 1), "a whole number of at least 1 or None"),
    "dropout": (lambda value: value is None or _number(value, below=1), "a share from 0 to below 1 or None"),
    "seed": (lambda value: _whole(value, 0) and value < 2**63, "a whole number from 0 to 2^63 - 1"),
    "precision": (lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    "augmentation": (lambda value: value is None or isinstance(value, Augmentation), "an Augmentation or None"),
    "label_smoothing": (lambda value: _number(value, below=1), "a share from 0 to below 1"),
    "weight_decay": (_number, "a number of at least 0"),
    "ema": (lambda value: value is None or _number(value, below=1), "a share from 0 to below 1 or None"),
    "network": (lambda value: isinstance(value, str) and value, "the name of a network"),
    "members": (lambda value: _whole(value, 1) and value <= 1000, "a whole number from 1 to 1000"),
    "clean_statistics": (lambda value: isinstance(value, bool), "True or False"),
}


@dataclass(frozen=True)
class Recipe:
    """How to train: Adam on the cross-entropy, in full batches, with a learning-rate schedule.

    epochs: passes over the training images; the images left over after the last full batch of an epoch are skipped.
    learning_rate: of Adam; with "one-cycle" the peak.
    schedule: "step" multiplies the learning rate by `gamma` every `step_epochs` epochs; "one-cycle" raises it to the
        peak over the first 30 % of the steps and lowers it to almost nothing, while Adam's β1 goes from 0.95 to 0.85
        and back (L. Smith, "Super-convergence", 2017; torch's OneCycleLR).
    train_images: use only this many images, the first ones (None: all of them).
    dropout: the share of inputs that the model's `nn.Dropout` layers switch off in training (None: as the model has
        it). It keeps a long training from learning the images by heart; in a short one the network only learns less.
    seed: of the shuffles, dropout and augmentation.
    precision: what products are computed in: "float32"; "bfloat16", which takes about half the time where the device
        has instructions for it; "auto": bfloat16 where it has them, else float32. Weights and loss stay float32.
    expected_accuracy: the fraction of MNIST's test images that `network` has been seen to recognise after this recipe.
    augmentation: how each batch is changed at random before the model sees it (None: not at all).
    label_smoothing: the share of a label that is spread over all classes (C. Szegedy et al., 2016).
    weight_decay: the share of each weight that is taken away per step, times the learning rate (AdamW, I. Loshchilov
        and F. Hutter, 2019; 0: plain Adam).
    ema: the decay per step of an exponential moving average of the weights, such as 0.999, which is then what is
        evaluated and what the model has in the end (None: no average).
    network: the name of the network it was chosen for, for `make_model`. `fit` trains whichever it is given.
    members: how many networks, with seeds that count up from `seed`, `python -m mnist_kit train` trains by it for a
        committee (`fit` trains one).
    clean_statistics: whether the means and variances that batch norm uses in evaluation are taken anew, after each
        epoch and where training is stopped, from up to 5,000 training images as they are. Those it keeps while it
        trains are of augmented images: blurred, and moved about.

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
    precision: str = "float32"
    expected_accuracy: float = 0.0
    augmentation: Augmentation | None = None
    label_smoothing: float = 0.0
    weight_decay: float = 0.0
    ema: float | None = None
    network: str = "Net"
    members: int = 1
    clean_statistics: bool = False

    def __post_init__(self):
        for field, (makes_sense, wanted) in _WANTED.items():
            value = getattr(self, field)
            if not makes_sense(value):
                raise RecipeError(f"{field} must be {wanted}, not {value!r}")

    def steps_per_epoch(self, images: int, processes: int = 1) -> int:
        """How many full batches an epoch over `images` training images has.

        Raises RecipeError when there is none, or when `processes` cannot share a batch equally.
        """
        images = min(images, self.train_images or images)
        if self.batch_size > images:
            raise RecipeError(f"batch_size {self.batch_size} exceeds the {images} training images: lower it")
        if self.batch_size % processes:
            raise RecipeError(f"batch_size {self.batch_size} cannot be shared equally by {processes} processes")
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

    @classmethod
    def completed(cls, settings: dict) -> dict:
        """What `as_dict` gave in an older version, with the defaults of the settings that are new since then."""
        augmentation = settings.get("augmentation")
        augmentation = augmentation and asdict(Augmentation()) | augmentation
        return cls("", epochs=1).as_dict() | settings | {"augmentation": augmentation}


# Listing 2.2 of the paper: 25 epochs of 468 full batches are 11,700 steps.
PAPER = Recipe("paper", epochs=25, learning_rate=0.003, schedule="step", expected_accuracy=0.992)
# For a CPU: a few epochs under one cycle reach what a stepped schedule needs many more for. Chosen on the last 10,000
# training images, with the others to train on.
QUICK = Recipe(
    "quick",
    epochs=3,
    learning_rate=0.005,
    schedule="one-cycle",
    dropout=0.0,
    precision="auto",
    label_smoothing=0.05,
    expected_accuracy=0.992,
    network="FastNet",
)
# To see everything run once: seconds of training, an accuracy to match.
SMALL = QUICK.but(name="small", epochs=2, train_images=6_400, expected_accuracy=0.90)

# As accurate as we could get it; on two cores it takes about 20 minutes. Chosen on the last 10,000 training
# images, but for the number of epochs.
BEST = Recipe(
    "best",
    epochs=30,
    learning_rate=0.005,
    schedule="one-cycle",
    precision="auto",
    augmentation=Augmentation(degrees=15, scale=0.1, shear=0.15, shift=4, elastic=0.5, sharp=True),
    label_smoothing=0.05,
    ema=0.998,
    clean_statistics=True,
    expected_accuracy=0.9967,
    network="BestNet",
)
COMMITTEE = BEST.but(name="committee", members=6)

RECIPES = {recipe.name: recipe for recipe in (PAPER, QUICK, SMALL, BEST, COMMITTEE)}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises RecipeError, with the nearest right name, for an unknown one."""
    if isinstance(name, str) and name in RECIPES:
        return RECIPES[name]
    raise RecipeError(_unknown("there is no recipe called", name, RECIPES))


def _unknown(complaint: str, name: str, names: Iterable[str]) -> str:
    near = get_close_matches(str(name).lower(), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{complaint} {name!r}{hint} There are: {', '.join(names)}"


def recipe_for(device) -> Recipe:
    """The recipe that fits `device` (a torch.device or its name): PAPER on a GPU, QUICK on a CPU.

    `make_model(recipe.network)` is the network that goes with it.

    The environment variable MNIST_KIT_RECIPE overrides it by name ("paper", "quick", "small", "best").
    """
    if chosen := os.environ.get("MNIST_KIT_RECIPE"):
        return get_recipe(chosen)
    return QUICK if str(device).startswith("cpu") else PAPER
