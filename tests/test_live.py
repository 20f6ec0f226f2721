import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_history import made_history

from mnist_kit import live
from mnist_kit.history import History
from mnist_kit.recipes import Recipe


class FakeRun(SimpleNamespace):
    """A run of two epochs of 500 steps; each step takes 0.01 s, asking for the history `cost` seconds."""

    def __init__(self, cost=0.0):
        super().__init__(cost=cost, now=0.0, asked=[], step=0, epoch=1, steps_per_epoch=500, total_steps=1_000)
        self.recipe = Recipe("made", epochs=2)
        self.interrupted = False

    @property
    def seconds(self) -> float:
        return self.now

    def history(self) -> History:
        self.asked.append(self.now)
        self.now += self.cost
        whole = made_history(losses=np.linspace(2, 0.1, 1_000))
        return History(whole.steps.iloc[: self.step], whole.epochs.iloc[: self.step // 500])


def train(run: FakeRun, callback, steps: int = 1_000) -> None:
    callback.on_start(run)
    for step in range(steps):
        run.now += 0.01
        run.epoch, run.step = step // 500 + 1, step + 1
        callback.on_step(run)
        if run.step % 500 == 0:
            callback.on_epoch(run)
    callback.on_end(run)


@pytest.fixture
def run(monkeypatch) -> FakeRun:
    """A run whose clock is the only one."""
    run = FakeRun()
    monkeypatch.setattr(live.time, "perf_counter", lambda: run.now)
    return run


class Handle:
    def __init__(self):
        self.updates = []

    def update(self, content, raw=False):
        self.updates.append(content)


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's display, without the notebook: the handles in the order they were made."""
    handles = []

    def display(content, raw=False, display_id=None):
        assert display_id
        handles.append(Handle())
        handles[-1].update(content)
        return handles[-1]

    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(live, "display", display)
    return handles


def test_redraws_at_most_once_a_second_where_drawing_is_free(run, notebook):
    train(run, live.LiveCurves())  # 10 seconds
    curves, line = notebook
    assert 9 <= len(curves.updates) <= 12
    assert 9 <= len(line.updates) <= 12


@pytest.mark.parametrize("cost", [0.05, 0.5])
def test_redrawing_takes_no_more_than_two_percent_of_the_time(run, notebook, monkeypatch, cost):
    monkeypatch.setattr(live.LiveCurves, "picture", lambda *_: None)
    run.cost = cost
    callback = live.LiveCurves()
    callback.on_start(run)
    run.asked.clear()
    started = run.now
    run.step = 1
    while run.now < started + 1_000:
        run.now += 0.01
        callback.on_step(run)
    assert 0 < len(run.asked) * cost <= 0.02 * (run.now - started) + 2 * cost


def test_the_last_state_stays(run, notebook):
    train(run, live.LiveCurves())
    curves, line = notebook
    assert "epoch 2/2 · step 1,000/1,000" in line.updates[-1]["text/plain"]
    assert "val_loss 0.5000 · val_accuracy 92.00% · time 00:10" in line.updates[-1]["text/plain"]
    picture = np.asarray(Image.open(io.BytesIO(curves.updates[-1].data)).convert("RGB"))
    first = np.asarray(Image.open(io.BytesIO(curves.updates[0].data)).convert("RGB"))
    assert picture.shape == (288, 810, 3) and (picture != first).any()


def test_the_line_tells_the_time_left(run, notebook):
    train(run, live.ProgressLine(), steps=200)
    assert notebook[0].updates[-1]["text/plain"].endswith("time 00:02 · 00:08 left")


def test_a_failing_drawing_warns_once_and_never_stops_training(run, notebook, monkeypatch):
    def fail(*_):
        raise RuntimeError("no ink left")

    monkeypatch.setattr(live.LiveCurves, "picture", fail)
    with pytest.warns(UserWarning, match="training continues.*no ink left") as warned:
        train(run, live.LiveCurves())
    assert len(warned) == 1 and run.step == 1_000


def test_where_there_is_no_notebook_each_epoch_prints_a_line(run, capsys):
    train(run, live.LiveCurves())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert len(run.asked) == 2


def test_a_terminal_line_is_overwritten_and_ends_with_a_newline(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    train(run, live.ProgressLine())
    written = capsys.readouterr().out
    assert written.count("\r") >= 9 and written.count("\n") == 1 and written.endswith("\n")


def test_an_interrupted_run_says_so(run, capsys):
    run.interrupted = True
    train(run, live.ProgressLine(), steps=20)
    assert capsys.readouterr().out.strip().endswith("stopped")
