import math

import pandas as pd

from mnist_kit import paper
from mnist_kit.models import Net, summary


def test_the_network_is_the_listing_row_by_row():
    network = summary(Net(), batch_size=16)
    pd.testing.assert_frame_equal(network.layers, pd.DataFrame(paper.LAYERS))
    assert network.totals().to_dict() == paper.TOTALS
    assert sum(layer["parameters"] for layer in paper.LAYERS) == paper.PARAMETERS
    assert paper.EPOCHS * (60_000 // paper.BATCH_SIZE) == paper.STEPS


def numbers(title: str) -> dict[str, float]:
    return next(c.numbers for c in paper.CONTRADICTIONS if c.title == title)


def test_the_stated_mean_fits_the_steps_under_the_cut_and_no_others():
    n = numbers("One mean for two totals")
    under_cut = round(n["total_seconds_under_cut"] / n["mean_seconds"])
    assert under_cut == 11_673 == n["steps"] - 27
    assert [
        steps
        for steps in range(11_600, n["steps"] + 1)
        if round(n["total_seconds_under_cut"] / steps, 6) == n["mean_seconds"]
    ] == [under_cut]
    assert (n["total_seconds"] - n["total_seconds_under_cut"]) / 27 > paper.SECONDS_CUT  # those cut off were slower
    assert round(n["total_seconds"] / n["steps"], 6) == 0.013679 != n["mean_seconds"] == paper.MEAN_SECONDS


def test_the_preparation_does_not_fit_between_the_totals_and_its_mean_is_rounded():
    n = numbers("Preparation is in neither total")
    assert round(n["total_seconds"] - n["total_seconds_under_cut"], 3) == 1.376 < n["eval_seconds"]
    n = numbers("44.615 s and 25 × 1.785 s: only rounding")
    assert round(n["epochs"] * n["mean_eval_seconds"], 3) == 44.625
    assert round(n["eval_seconds"] / n["epochs"], 3) == n["mean_eval_seconds"]


def test_a_number_of_a_contradiction_is_the_one_that_is_stated():
    stated = {(row.key, stated["value"]) for row in paper.QUANTITIES for stated in row.stated}
    for contradiction in paper.CONTRADICTIONS:
        for key in ("total_seconds", "total_seconds_under_cut", "mean_seconds", "eval_seconds", "mean_eval_seconds"):
            assert (key, contradiction.numbers.get(key)) in stated or key not in contradiction.numbers


def test_the_best_and_the_last_accuracy_lie_within_a_standard_error():
    n = numbers("The best epoch cannot be told from the last")
    p = n["accuracy"] / 100
    error = 100 * math.sqrt(p * (1 - p) / n["test_images"])
    assert round(error, 3) == 0.072
    assert round(9_984 * n["accuracy"] / 100) + 4 == round(9_984 * n["best_accuracy"] / 100) == 9_936
    assert n["best_accuracy"] - n["accuracy"] < error


def test_the_stated_accuracies_are_shares_of_the_full_batches_and_of_nothing_else():
    n = numbers("99.479 % of what?")
    batches = n["test_images"] // n["batch_size"]
    for stated in (n["accuracy"], n["best_accuracy"]):
        # Of all images, of as many batches of 128 as there are with the short last one, and of the full ones.
        for images in (n["test_images"], (batches + 1) * n["batch_size"], batches * n["batch_size"]):
            nearest = round(stated / 100 * images) / images
            assert (round(100 * nearest, 3) == stated) is (images == batches * n["batch_size"])
