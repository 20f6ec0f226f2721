import math

import pandas as pd
import pytest

from mnist_kit import paper
from mnist_kit.history import QUANTITIES
from mnist_kit.models import Net, summary


def test_every_stated_number_is_a_row_of_the_summary():
    assert {stated.key for stated in paper.STATED} <= set(QUANTITIES)


def test_the_network_is_the_listing_row_by_row():
    network = summary(Net(), batch_size=16)
    pd.testing.assert_frame_equal(network.layers, pd.DataFrame(paper.LAYERS))
    assert network.totals().to_dict() == paper.TOTALS


def test_the_layers_of_the_listing_add_up_to_its_total():
    assert sum(layer.parameters for layer in paper.LAYERS) == paper.PARAMETERS


def test_the_steps_are_the_full_batches_of_the_epochs():
    assert paper.TRAIN_IMAGES // paper.BATCH_SIZE == paper.STEPS_PER_EPOCH
    assert paper.EPOCHS * paper.STEPS_PER_EPOCH == paper.STEPS
    assert paper.TICK_STEPS == 2.5 * paper.STEPS_PER_EPOCH


def numbers(title: str) -> dict[str, float]:
    return next(c.numbers for c in paper.CONTRADICTIONS if c.title == title)


def test_the_two_totals_have_other_means_than_the_one_stated():
    n = numbers("One mean for two totals")
    assert round(n["total_seconds_under_cut"] / n["steps"], 6) == 0.013562 != n["mean_seconds"]
    assert round(n["total_seconds"] / n["steps"], 6) == 0.013679 != n["mean_seconds"]


def test_the_preparation_does_not_fit_between_the_totals():
    n = numbers("Preparation is in neither total")
    assert n["eval_seconds"] == pytest.approx(n["epochs"] * n["mean_eval_seconds"], abs=0.0125)
    assert round(n["total_seconds"] - n["total_seconds_under_cut"], 3) == 1.376


def test_the_best_and_the_last_accuracy_lie_within_a_standard_error():
    n = numbers("The best epoch is no better than the last")
    p = n["accuracy"] / 100
    error = 100 * math.sqrt(p * (1 - p) / n["test_images"])
    assert round(error, 3) == 0.072
    assert n["best_accuracy"] - n["accuracy"] < error


def test_the_stated_accuracies_are_shares_of_the_full_batches_and_of_nothing_else():
    n = numbers("99.479 % of what?")
    full = n["test_images"] // n["batch_size"]
    for stated in (n["accuracy"], n["best_accuracy"]):
        for images, fits in (
            (n["test_images"], False),
            (
                (full + 1) * n["batch_size"],
                False,
            ),  # what a mean of 79 batches of 128, the last one of 16, is a share of
            (full * n["batch_size"], True),
        ):
            nearest = round(stated / 100 * images) / images
            assert (round(100 * nearest, 3) == stated) is fits
