"""The tables of committees: each group's accuracy is that of the mean of its members' probabilities."""

import sys

import committee
import pandas as pd
import pytest
import torch
from conftest import small_model

from mnist_kit.evaluation import Evaluation, evaluate


def test_a_row_per_group_of_members(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(committee, "test_images", lambda: {"mnist": tiny.test, "qmnist": tiny.train})
    monkeypatch.setattr(committee, "load_weights", lambda name: small_model(int(name[-1])))
    monkeypatch.setattr(sys, "argv", ["committee.py", str(tmp_path), "--members", "3"])
    committee.main()
    table = pd.read_csv(tmp_path / "committee.csv")
    assert table["seeds"].astype(str).tolist() == ["0", "1", "2", "0 1", "0 2", "1 2", "0 1 2"]
    for split, column in ((tiny.test, "mnist"), (tiny.train, "qmnist")):
        evaluations = [evaluate(small_model(seed), split, "cpu") for seed in range(3)]
        assert table[column][1] == pytest.approx(evaluations[1].accuracy)
        mean = (evaluations[0].probabilities + evaluations[2].probabilities).argmax(1)
        assert table[column][4] == pytest.approx((mean == split.labels).double().mean().item())

    assert "image" in pd.read_csv(tmp_path / "committee_misread.csv")


def test_a_row_per_image_that_a_member_misreads():
    def says(*digits):
        return Evaluation(10 * torch.eye(10)[list(digits)], torch.tensor([1, 2, 3, 4]))

    table = committee.misread([says(1, 2, 3, 9), says(1, 7, 3, 9), says(1, 2, 3, 9)])
    assert table.to_dict("list") == {"image": [1, 3], "label": [2, 4], "answer": [2, 9], "members": [1, 3]}
