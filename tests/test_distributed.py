"""Several processes that train one model, started by torchrun as a reader starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import PROJECT, InDouble, net, small_model
from safetensors.torch import load_file

from mnist_kit.history import History, load_history
from mnist_kit.parallel import World
from mnist_kit.recipes import Recipe
from mnist_kit.training import fit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs gloo on Unix here")

# 300 training images; 5 epochs × 6 steps, with dropout, batch norm, and test images that three cannot share equally.
RECIPE = Recipe("brief", epochs=2, batch_size=48, schedule="one-cycle", seed=5, learning_rate=0.002)

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import InDouble, _rows, net, small_model
from mnist_kit import MnistKitError, train
from mnist_kit.data import Digits
from mnist_kit.parallel import world
from mnist_kit.recipes import Recipe
from mnist_kit.training import Callback, fit
from safetensors.torch import save_file
import mnist_kit.parallel as parallel, os, signal, time

digits = Digits("tiny", _rows(300), _rows(100))
home = Path({home!r})
{body}
"""


@pytest.fixture
def torchrun(tmp_path, home):
    """Run a script of the lines `body` in some processes; its output and its exit status."""

    def run(processes: int, body: str, *arguments: str, wait: bool = True):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(tests=str(PROJECT / "tests"), home=str(tmp_path), body=body))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        if not wait:
            return process
        output = process.communicate(timeout=300)[0]
        return output, process.returncode

    return run


TOGETHER = """
recipe = Recipe(**json.loads(sys.argv[1]))
model = InDouble({make}(7 + world().rank))  # the first process's weights have to become everybody's
history = fit(model, digits, recipe, device="cpu")
weights = {{name: tensor.contiguous() for name, tensor in model.state_dict().items()}}
save_file(weights, home / f"weights-{{world().rank}}.safetensors")
history.save(home / f"history-{{world().rank}}.npz")
"""


@pytest.mark.parametrize(("processes", "make"), [(2, net), (3, small_model)])
def test_several_processes_do_what_one_does(torchrun, tiny, tmp_path, processes, make):
    """In float64: Adam makes much of float32's rounding, and soon of nothing else."""
    recipe = RECIPE if make is small_model else replace(RECIPE, epochs=1, train_images=96)
    output, status = torchrun(processes, TOGETHER.format(make=make.__name__), json.dumps(recipe.as_dict()))
    assert status == 0, output
    model = InDouble(make(7))
    alone = fit(model, tiny, recipe, device="cpu")
    for rank in range(processes):
        history = History.load(tmp_path / f"history-{rank}.npz")
        assert list(history.steps["step"]) == list(alone.steps["step"])
        assert list(history.steps["loss"]) == pytest.approx(list(alone.steps["loss"]), rel=1e-6)
        timeless = ["epoch", "loss", "val_loss", "val_accuracy", "learning_rate"]
        pd.testing.assert_frame_equal(history.epochs[timeless], alone.epochs[timeless], rtol=1e-6)
        assert history.about["ranks"] == processes and alone.about["ranks"] == 1
    weights = [load_file(tmp_path / f"weights-{rank}.safetensors") for rank in range(processes)]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-6, atol=1e-9)
        assert all(torch.equal(other[name], weights[0][name]) for other in weights[1:])


CLI = """
train.load_mnist = lambda name: digits
train.make_model = lambda name: small_model(int(os.environ.get("RANK", 0)))
train.get_recipe = lambda name: Recipe("brief", epochs=30, batch_size=48, schedule="one-cycle", seed=5)
{more}
sys.exit(train.main(sys.argv[1:]))
"""
# The second of two processes is killed in the middle of a step.
DIE_AT_40 = """
import mnist_kit.training as training
step, done = training._Training.step, 0
def dying(self, batch):
    global done
    done += 1
    if done == 40 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, batch)
training._Training.step = dying
"""


def test_a_rank_that_dies_ends_the_job_and_resume_goes_on_with_another_number(torchrun, tiny, home):
    output, status = torchrun(2, CLI.format(more=DIE_AT_40), "--recipe", "x", "--name", "run", "--every", "5")
    assert status != 0
    assert "lost contact with another rank" in output and "--resume" in output
    assert not (home / "runs").exists()
    assert 35 <= int(sorted((home / "checkpoints" / "run").iterdir())[-1].stem[5:]) <= 40

    output, status = torchrun(3, CLI.format(more=""), "--recipe", "x", "--name", "run", "--resume")
    assert status == 0, output
    recipe = Recipe("brief", epochs=30, batch_size=48, schedule="one-cycle", seed=5)
    alone = fit(small_model(0), tiny, recipe, device="cpu")
    resumed = load_history("run")
    assert resumed.about["ranks"] == 3 and len(resumed.steps) == 180
    assert list(resumed.steps["loss"][:60]) == pytest.approx(list(alone.steps["loss"][:60]), rel=1e-2)


def test_seeds_are_spread_over_the_ranks_and_gathered_in_one_table(torchrun, tiny, home):
    brief = 'train.get_recipe = lambda name: Recipe("brief", epochs=1, batch_size=48)'
    output, status = torchrun(2, CLI.format(more=brief), "--recipe", "x", "--name", "many", "--seeds", "0-2,7")
    assert status == 0, output
    table = pd.read_csv(home / "runs" / "many-seeds.csv")
    assert list(table["seed"]) == [0, 1, 2, 7]
    for row in table.itertuples():
        history = load_history(f"many-seed-{row.seed}")
        assert history.about["recipe"]["seed"] == row.seed and history.about["ranks"] == 1
        assert history.epochs["val_accuracy"].iloc[-1] == row.val_accuracy
    assert "seed 7 · epoch 1/1" in output and "mean" in output


def test_a_number_of_processes_that_does_not_divide_the_batch(torchrun, home):
    brief = 'train.get_recipe = lambda name: Recipe("brief", epochs=1, batch_size=32)'
    output, status = torchrun(3, CLI.format(more=brief), "--recipe", "x", "--name", "run")
    assert status != 0 and "batch_size 32 cannot be shared equally by 3 processes" in output
    assert not home.exists()


def test_ctrl_c_stops_all_after_the_same_step(torchrun, home):
    slow = 'train.get_recipe = lambda name: Recipe("brief", epochs=2000, batch_size=48)'
    process = torchrun(2, CLI.format(more=slow), "--recipe", "x", "--name", "run", "--every", "1", wait=False)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((home / "checkpoints" / "run").glob("step-*[1-9].*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "stopped; the same command with --resume goes on" in output
    assert "lost contact" not in output


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 2), (1, 2), (2, 3)])
def test_shards_are_equal_and_disjoint(rank, size):
    batch = torch.arange(24)
    parts = [World(r, size).shard(batch) for r in range(size)]
    assert torch.equal(torch.cat(parts), batch) and torch.equal(parts[rank], World(rank, size).shard(batch))
    assert {len(part) for part in parts} == {24 // size}
