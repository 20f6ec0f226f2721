"""A run that was stopped, whatever stopped it, goes on as if it had not been."""

import errno
import multiprocessing
import os
import random
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Spoil, StopAt, layer_names, net, small_model
from torch import nn

from mnist_kit import files
from mnist_kit.checkpoints import Checkpoints
from mnist_kit.errors import CheckpointError, LossNotFinite, StorageError, TrainingError
from mnist_kit.history import History, load_history, save_history
from mnist_kit.recipes import Recipe
from mnist_kit.training import Callback, fit

ONE_CYCLE = Recipe("brief", epochs=3, batch_size=25, train_images=110, schedule="one-cycle", seed=5)  # 3 × 4 steps
STEPPED = replace(ONE_CYCLE, schedule="step", step_epochs=1)
TIMELESS = ["epoch", "loss", "val_loss", "val_accuracy", "batch_accuracy", "learning_rate"]


def train(digits, recipe=ONE_CYCLE, *callbacks: Callback, resume=False, every=1, seed=0, name="run"):
    model = small_model(seed)
    return model, fit(model, digits, recipe, callbacks, "cpu", checkpoint=name, every=every, resume=resume)


def assert_same_run(one: tuple[nn.Module, History], other: tuple[nn.Module, History]) -> None:
    for frame in ("steps", "epochs"):
        columns = [column for column in TIMELESS if column in getattr(one[1], frame)]
        pd.testing.assert_frame_equal(
            getattr(one[1], frame)[columns], getattr(other[1], frame)[columns], check_exact=True
        )
    weights, same = one[0].state_dict(), other[0].state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


@pytest.fixture(params=[ONE_CYCLE, STEPPED], ids=["one-cycle", "step"])
def recipe(request) -> Recipe:
    return request.param


def plain(digits, recipe: Recipe) -> tuple[nn.Module, History]:
    model = small_model()
    return model, fit(model, digits, recipe, device="cpu")


@pytest.mark.parametrize("step", [1, 4, 7, 12])
def test_interrupted_after_any_step_it_goes_on_bit_for_bit(tiny, recipe, step):
    model, begun = train(tiny, recipe, StopAt(step), every=100)
    assert len(begun.steps) == step and len(begun.epochs) == (step - 1) // 4 and begun.about["interrupted"]
    assert not model.training and begun.steps["loss"].notna().all()
    resumed = train(tiny, recipe, resume=True, seed=99)  # the weights are the checkpoint's, whatever the model's were
    assert_same_run(resumed, plain(tiny, recipe))
    assert not resumed[1].about["interrupted"]
    assert list(resumed[1].steps["seconds"][:step]) == list(begun.steps["seconds"])
    assert (resumed[1].epochs["seconds"] > resumed[1].epochs["eval_seconds"]).all()


def test_the_whole_network_goes_on_bit_for_bit(tiny):
    """Its convolutions lie in memory otherwise than their checkpoint, unlike those of the small model."""
    recipe = ONE_CYCLE.but(epochs=1, batch_size=10, train_images=40)
    few = replace(tiny, test=tiny.test.first(10))
    fit(net(), few, recipe, [StopAt(2)], "cpu", checkpoint="run")
    model, expected = net(1), net()
    resumed = fit(model, few, recipe, device="cpu", checkpoint="run", resume=True)
    assert_same_run((model, resumed), (expected, fit(expected, few, recipe, device="cpu")))


def test_interrupted_while_it_evaluates(tiny, recipe, monkeypatch):
    from mnist_kit import training

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", interrupted)
        _, begun = train(tiny, recipe)
    assert len(begun.steps) == 4 and begun.epochs.empty
    assert_same_run(train(tiny, recipe, resume=True), plain(tiny, recipe))


def test_a_finished_run_gives_its_history_without_a_step(tiny):
    first = train(tiny)
    assert_same_run(first, train(tiny, ONE_CYCLE, StopAt(1, error=AssertionError), resume=True, seed=1))


class PressCtrlC(Callback):
    """From another thread, while the main one is somewhere in the steps after `step`."""

    def __init__(self, step: int, wait: float):
        self.step, self.wait = step, wait

    def on_step(self, run):
        if run.step == self.step:
            threading.Timer(self.wait, signal.raise_signal, [signal.SIGINT]).start()


@pytest.mark.parametrize("wait", [0.0, 0.003])
def test_ctrl_c_at_any_moment_waits_for_the_end_of_the_step(tiny, wait, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    recipe = replace(ONE_CYCLE, epochs=20)
    model = small_model()
    order = layer_names(model)
    history = fit(model, tiny, recipe, [PressCtrlC(6, wait)], "cpu", checkpoint="run")
    assert history.about["interrupted"] and 6 <= len(history.steps) < 80
    assert layer_names(model) == order and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same_run(train(tiny, recipe, resume=True), plain(tiny, recipe))


# Killed


def _train_until_killed(home: str, when: tuple[str, int] | None) -> None:
    """In a process of its own: go on with the run, and die without a word when told to."""
    from conftest import _rows

    from mnist_kit.data import Digits

    os.environ["MNIST_KIT_HOME"] = home
    torch.set_num_threads(1)
    kind, countdown = when or ("never", 0)

    def count(*_):
        nonlocal countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    class Die(Callback):
        def on_step(self, run):
            if kind == "step":
                count()

    if kind in ("fsync", "replace", "unlink"):  # before the file is whole, before it has its name, before old ones go
        original = getattr(os, kind)

        def dying(*arguments, **options):
            count()
            return original(*arguments, **options)

        setattr(os, kind, dying)
    if kind == "moment":
        threading.Timer(countdown / 1000, os.kill, [os.getpid(), signal.SIGKILL]).start()
    model, history = train(Digits("tiny", _rows(300), _rows(100)), KILLED, Die(), resume=True, every=3)
    save_history(history, "killed")
    torch.save(model.state_dict(), Path(home) / "weights.pt")
    os._exit(0)


@pytest.fixture
def one_thread():
    """As in the processes that are killed: sums may come out otherwise on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


KILLED = replace(ONE_CYCLE, epochs=10, learning_rate=0.01)  # 40 steps
KILLS = 8


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is of Unix")
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(tiny, home, one_thread):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mnist_kit.training", "conftest"])
    dice = random.Random(20231130)
    kinds = ["step", "fsync", "replace", "moment"] * (KILLS // 4)
    whens = [(kind, dice.randint(1, {"step": 7, "moment": 60}.get(kind, 3))) for kind in kinds]
    killed, expected = 0, plain(tiny, KILLED)
    for when in [*whens, None]:
        process = processes.Process(target=_train_until_killed, args=(str(home), when))
        process.start()
        process.join(120)
        assert process.exitcode in (-signal.SIGKILL, 0)
        killed += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:  # it is through; the next begins a new run
            model = small_model()
            model.load_state_dict(torch.load(home / "weights.pt", weights_only=True))
            assert_same_run((model, load_history("killed")), expected)
            for path in (home / "checkpoints" / "run").glob("step-*" if when else "nothing"):
                path.unlink()
    assert killed >= KILLS - 2
    assert not list((home / "checkpoints" / "run").glob(".step-*"))  # nothing is left of files begun


def test_a_name_that_a_run_uses_is_refused_to_others_and_free_afterwards(tiny, home):
    class Another(Callback):
        def on_step(self, run):
            with pytest.raises(CheckpointError, match=f"process {os.getpid()} trains under the name 'run' now"):
                train(tiny, ONE_CYCLE)

    history = train(tiny, ONE_CYCLE, Another(), every=1)[1]
    assert not history.about["interrupted"] and kept(home) == ["step-000000011.pt", "step-000000012.pt"]
    train(tiny, ONE_CYCLE)


# What is kept


def kept(home: Path, name: str = "run") -> list[str]:
    return sorted(path.name for path in (home / "checkpoints" / name).iterdir() if path.suffix == ".pt")


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-100],
    "a bit": lambda content: content[:-1_000] + bytes([content[-1_000] ^ 1]) + content[-999:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(tiny, home, damage):
    train(tiny, ONE_CYCLE, StopAt(7), every=1)
    path = home / "checkpoints" / "run" / "step-000000007.pt"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(UserWarning, match=r"step-000000007\.pt is damaged .*resuming from step-000000006"):
        resumed = train(tiny, resume=True)
    assert_same_run(resumed, plain(tiny, ONE_CYCLE))


def test_when_all_are_damaged_it_says_so_and_touches_nothing(tiny, home):
    train(tiny, ONE_CYCLE, StopAt(7), every=1)
    for path in (home / "checkpoints" / "run").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-000000007.* damaged .*step-000000006.* damaged .*without resume"):
        train(tiny, resume=True)
    assert kept(home) == ["step-000000006.pt", "step-000000007.pt"]


def test_beginning_anew_sets_aside_the_run_that_got_further(tiny, home):
    train(tiny, ONE_CYCLE, StopAt(7))
    for _ in range(2):  # resume was forgotten, and noticed at once
        train(tiny, ONE_CYCLE, StopAt(2), seed=1)
    assert kept(home, "run/before") == ["step-000000006.pt", "step-000000007.pt"]
    assert kept(home) == ["step-000000001.pt", "step-000000002.pt"]
    assert_same_run(train(tiny, resume=True, name="run/before"), plain(tiny, ONE_CYCLE))


def test_the_name_of_an_earlier_run_is_for_resuming_it_and_not_while_another_may_replace_it(tiny, home):
    for resume in (False, True):
        with pytest.raises(CheckpointError, match=r"before is where an earlier run is kept"):
            train(tiny, name="run/before", resume=resume)
    assert not home.exists()
    train(tiny, ONE_CYCLE, StopAt(7))
    train(tiny, ONE_CYCLE, StopAt(2))

    class Another(Callback):
        def on_step(self, run):
            with pytest.raises(CheckpointError, match="trains under the name 'run' now"):
                train(tiny)

    train(tiny, ONE_CYCLE, Another(), resume=True, name="run/before")
    assert kept(home, "run/before") == ["step-000000011.pt", "step-000000012.pt"]


def test_a_run_that_cannot_begin_leaves_the_earlier_one_to_go_on_from(tiny, home):
    train(tiny, ONE_CYCLE, StopAt(7))
    before = kept(home)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        patch.setattr(files.os, "fsync", FillTheDisk(patch, 0, 0).full)
        train(tiny, ONE_CYCLE, seed=1)
    assert kept(home) == before and not (home / "checkpoints" / "run/before").exists()
    assert_same_run(train(tiny, resume=True), plain(tiny, ONE_CYCLE))


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": replace(ONE_CYCLE, learning_rate=0.01)}, r"recipe .*learning_rate 0\.003, not 0\.01"),
        ({"name": "other"}, "data set .*'tiny', not 'other'"),
        ({"images": 50}, "data set .*version "),
        ({"model": nn.Linear(784, 10)}, "model .*'Sequential', not 'Linear'"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(784, 10))}, r"model .*0\.weight|1\.weight"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_and_kept(tiny, home, change, message):
    train(tiny, ONE_CYCLE, StopAt(3))
    before = {path: path.read_bytes() for path in (home / "checkpoints" / "run").iterdir()}
    digits = replace(tiny, name=change.get("name", "tiny"), test=tiny.test.first(change.get("images", 100)))
    model, recipe = change.get("model", small_model()), change.get("recipe", ONE_CYCLE)
    with pytest.raises(CheckpointError, match=rf"checkpoint 'run' is of another {message}.*without resume"):
        fit(model, digits, recipe, device="cpu", checkpoint="run", resume=True)
    assert {path: path.read_bytes() for path in (home / "checkpoints" / "run").iterdir()} == before


def test_a_checkpoint_of_a_newer_version(tiny, home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mnist_kit.checkpoints.FORMAT", b"mnist_kit checkpoint 3 ")
        train(tiny, ONE_CYCLE, StopAt(3))
    with pytest.raises(CheckpointError, match=r"step-000000003.* newer mnist_kit"):
        train(tiny, resume=True)
    assert kept(home) == ["step-000000002.pt", "step-000000003.pt"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint": "../run"}, CheckpointError, "'../run' cannot name checkpoints"),
        ({"resume": True}, CheckpointError, "resume=True needs the name"),
        ({"checkpoint": "run", "every": 0}, TrainingError, "every must be a whole number"),
        ({"checkpoint": "run", "every": 2.5}, TrainingError, "every must be a whole number"),
    ],
)
def test_settings_that_make_no_sense(tiny, home, options, error, message):
    with pytest.raises(error, match=message):
        fit(small_model(), tiny, ONE_CYCLE, [StopAt(1, error=AssertionError)], "cpu", **options)
    assert not home.exists()


class FillTheDisk(Callback):
    def __init__(self, monkeypatch, first: int, last: int):
        self.monkeypatch, self.first, self.last = monkeypatch, first, last

    def on_step(self, run):
        if run.step == self.first:
            self.monkeypatch.setattr(files.os, "fsync", self.full)
        if run.step == self.last:
            self.monkeypatch.undo()

    def full(self, _descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("last", "states"), [(99, (1, 2)), (6, (11, 12))])
def test_a_full_disk_is_told_once_and_training_goes_on(tiny, home, last, states):
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning) as caught:
        _, history = train(tiny, ONE_CYCLE, FillTheDisk(patch, 3, last))
    assert [str(warning.message)[:43] for warning in caught] == ["training continues without new checkpoints:"]
    assert len(history.steps) == 12
    assert kept(home) == [f"step-{step:09}.pt" for step in states]


def test_no_checkpoint_holds_weights_that_are_not_finite(tiny, home):
    with pytest.raises(LossNotFinite, match=r"loss of step 7 .* weights of step 5 again"):
        train(tiny, ONE_CYCLE, Spoil(6))
    state = Checkpoints("run").latest()
    assert state["step"] == 5 and all(tensor.isfinite().all() for tensor in state["weights"].values())


def test_by_default_checkpoints_are_written_as_time_allows(tiny, home, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(
        "mnist_kit.checkpoints.time", type("Time", (), {"perf_counter": staticmethod(lambda: clock[0])})
    )
    written = []

    def slow(path, content):
        written.append(int(path.stem[5:]))
        clock[0] += 1.0
        return files.write_atomically(path, content)

    class Tick(Callback):
        def on_step(self, run):
            clock[0] += 30.0

    monkeypatch.setattr("mnist_kit.checkpoints.write_atomically", slow)
    fit(small_model(), tiny, ONE_CYCLE, [Tick()], "cpu", checkpoint="run")
    assert written == [0, 4, 8, 12, 12]  # a second of writing in each hundred, and the end
