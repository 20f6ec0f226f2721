import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_history import made_history

from mnist_kit import live
from mnist_kit.history import History
from mnist_kit.recipes import Recipe


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeRun(SimpleNamespace):
    """A run of two epochs of 500 steps; each step takes 0.01 s, asking for the history `cost` seconds."""

    def __init__(self, clock, cost=0.0):
        super().__init__(clock=clock, cost=cost, asked=[], step=0, epoch=1, steps_per_epoch=500, total_steps=1_000)
        self.recipe = Recipe("made", epochs=2)
        self.interrupted = False

    @property
    def seconds(self) -> float:
        return self.clock.now

    def history(self) -> History:
        self.asked.append(self.clock.now)
        self.clock.now += self.cost
        whole = made_history(losses=np.linspace(2, 0.1, 1_000))
        return History(whole.steps.iloc[: self.step], whole.epochs.iloc[: self.step // 500])


def train(run: FakeRun, callback, steps: int = 1_000) -> None:
    callback.on_start(run)
    for step in range(steps):
        run.clock.now += 0.01
        run.epoch, run.step = step // 500 + 1, step + 1
        callback.on_step(run)
        if run.step % 500 == 0:
            callback.on_epoch(run)
    callback.on_end(run)


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


def test_redraws_at_most_once_a_second_where_drawing_is_free(notebook):
    clock = FakeClock()
    run = FakeRun(clock)
    train(run, live.LiveCurves(clock=clock))  # 10 seconds
    curves, line = notebook
    assert 9 <= len(curves.updates) <= 12
    assert 9 <= len(line.updates) <= 12


@pytest.mark.parametrize("cost", [0.05, 0.5])
def test_redrawing_takes_no_more_than_two_percent_of_the_time(notebook, monkeypatch, cost):
    monkeypatch.setattr(live.LiveCurves, "picture", lambda *_: None)
    clock = FakeClock()
    run = FakeRun(clock, cost)
    callback = live.LiveCurves(clock=clock)
    callback.on_start(run)
    run.asked.clear()
    started = clock.now
    run.step = 1
    while clock.now < started + 1_000:
        clock.now += 0.01
        callback.on_step(run)
    assert 0 < len(run.asked) * cost <= 0.02 * (clock.now - started) + 2 * cost


def test_the_last_state_stays(notebook):
    clock = FakeClock()
    train(FakeRun(clock), live.LiveCurves(clock=clock))
    curves, line = notebook
    assert "epoch 2/2 · step 1,000/1,000" in line.updates[-1]["text/plain"]
    assert "val_loss 0.5000 · val_accuracy 92.00% · time 0:10" in line.updates[-1]["text/plain"]
    picture = np.asarray(Image.open(io.BytesIO(curves.updates[-1].data)).convert("RGB"))
    first = np.asarray(Image.open(io.BytesIO(curves.updates[0].data)).convert("RGB"))
    assert picture.shape == (288, 810, 3) and (picture != first).any()


def test_the_line_tells_the_time_left(notebook):
    clock = FakeClock()
    run = FakeRun(clock)
    train(run, live.ProgressLine(clock=clock), steps=200)
    assert notebook[0].updates[-1]["text/plain"].endswith("time 0:02 · 0:08 left")


def test_a_failing_drawing_warns_once_and_never_stops_training(notebook, monkeypatch):
    def fail(*_):
        raise RuntimeError("no ink left")

    monkeypatch.setattr(live.LiveCurves, "picture", fail)
    clock = FakeClock()
    run = FakeRun(clock)
    with pytest.warns(UserWarning, match="training continues.*no ink left") as warned:
        train(run, live.LiveCurves(clock=clock))
    assert len(warned) == 1 and run.step == 1_000


def test_where_there_is_no_notebook_each_epoch_prints_a_line(capsys):
    clock = FakeClock()
    run = FakeRun(clock)
    train(run, live.LiveCurves(clock=clock))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert len(run.asked) == 2


def test_a_terminal_line_is_overwritten_and_ends_with_a_newline(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    clock = FakeClock()
    train(FakeRun(clock), live.ProgressLine(clock=clock))
    written = capsys.readouterr().out
    assert written.count("\r") >= 9 and written.count("\n") == 1 and written.endswith("\n")


def test_an_interrupted_run_says_so(capsys):
    clock = FakeClock()
    run = FakeRun(clock)
    run.interrupted = True
    train(run, live.ProgressLine(clock=clock), steps=20)
    assert capsys.readouterr().out.strip().endswith("stopped")


def test_a_long_run_is_drawn_with_few_points_and_the_latest(notebook):
    clock = FakeClock()
    callback = live.LiveCurves(clock=clock)
    train(FakeRun(clock), callback)
    steps = callback.loss.get_xdata()
    assert max(steps) == 1_000 and len(steps) <= live.MOST_POINTS
