"""What the paper states, as data: A. M. Cherkashin, "Handwritten digit recognition" (2023). Nothing is computed here.

The tables are in `reference/paper.json`; the settings that the program itself uses are below.
"""

import json
from dataclasses import dataclass

from mnist_kit.files import REFERENCE

BATCH_SIZE = 128
EPOCHS = 25
STEPS = 11_700
PARAMETERS = 905_354

# How section 2.4 draws its figures (listing 4.1).
LOSS_CUT = 0.5  # figure 4 shows the losses below it
SECONDS_CUT = 0.04  # figure 6 shows the steps that took less, in seconds
MEAN_SECONDS = 0.013593  # per step, of those under the cut
Y_TICKS = 10  # intervals that the value axis is divided into
DPI = 300


@dataclass(frozen=True)
class Quantity:
    """A number of section 2.4: its name and unit, how it is taken from a run's tables, and what the paper gives for it.

    table, column, take, at: the `take` (count, sum, mean, last, min or max) of that column, or what stands in column
    `at` of the row where it is. stated: each value as printed, with the place; empty where the paper has none.
    """

    key: str
    name: str
    unit: str
    table: str
    column: str
    take: str
    at: str | None = None
    stated: tuple[dict, ...] = ()


@dataclass(frozen=True)
class Contradiction:
    """A place where the paper disagrees with itself or with what is known; `numbers` is what the arithmetic needs."""

    title: str
    says: str
    but: str
    where: str
    numbers: dict[str, float]


_stated = json.loads((REFERENCE / "paper.json").read_text(encoding="utf-8"))

# Listing 2.1, for a batch of 16, in the columns of `models.summary(…).layers`; TOTALS has the names of its `totals()`.
LAYERS: list[dict] = _stated["layers"]
TOTALS: dict[str, float] = _stated["totals"]
QUANTITIES = tuple(Quantity(**row) for row in _stated["quantities"])
CONTRADICTIONS = tuple(Contradiction(**row) for row in _stated["contradictions"])
