import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_kit.calibration import expected_calibration_error, fit_temperature, reliability, threshold_at
from mnist_kit.errors import TrainingError


@given(st.floats(0.3, 4), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_the_temperature_that_was_put_in_is_found(temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.05)


def test_reliability_and_error_of_a_known_case():
    """Four answers at 0.95, three of them right; two at 0.65, none right."""
    confident, doubtful = [0.95, 0.05], [0.35, 0.65]
    table = reliability(np.array([confident] * 4 + [doubtful] * 2), np.array([0, 0, 0, 1, 0, 0]))
    assert table["images"].tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 4]
    assert table.loc[9, "confidence"] == pytest.approx(0.95) and table.loc[9, "accuracy"] == 0.75
    assert table.loc[6, "confidence"] == pytest.approx(0.65) and table.loc[6, "accuracy"] == 0
    assert expected_calibration_error(table) == pytest.approx((4 * 0.2 + 2 * 0.65) / 6)


def test_certain_answers_are_in_the_last_bin():
    assert reliability(np.eye(3), np.arange(3))["images"].tolist() == [0] * 9 + [3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.floats(0, 0.99))
def test_no_more_than_the_price_is_doubted(confidence, price):
    threshold = threshold_at(price, np.array(confidence))
    assert np.mean(np.array(confidence) < threshold) <= price


def test_without_images_there_is_a_clear_error():
    with pytest.raises(TrainingError, match="N ≥ 1"):
        fit_temperature(torch.empty(0, 10), torch.empty(0, dtype=torch.int64))
    with pytest.raises(TrainingError, match="no answers"):
        threshold_at(0.01, np.array([]))
