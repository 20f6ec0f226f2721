"""Several processes that train one model, started by torchrun as a reader starts them."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from conftest import PROJECT, plain_model
from safetensors.torch import load_file

from mnist_kit.distributed import World, join
from mnist_kit.errors import TrainingError
from mnist_kit.history import load_history
from mnist_kit.recipes import Recipe
from mnist_kit.training import fit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs gloo on Unix here")

# 300 training images; 5 epochs × 6 steps, with dropout, batch norm, and test images that three cannot share equally.
RECIPE = Recipe(
    "brief", epochs=2, batch_size=48, schedule="one-cycle", seed=5, learning_rate=0.002, clean_statistics=True
)

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import _rows, plain_model, small_model
from mnist_kit import MnistKitError, __main__ as main
from mnist_kit.data import Digits
from mnist_kit.distributed import join
from mnist_kit.history import save_history
from mnist_kit.recipes import Recipe
from mnist_kit.training import Callback, fit
from safetensors.torch import save_file
import os, signal, time

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
rank = join().rank
for kind in (plain_model, small_model):
    model = kind(7 + rank).double()  # the first process's weights have to become everybody's
    history = fit(model, digits, recipe, device="cpu")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, home / f"{kind.__name__}-{rank}")
    save_history(history, f"{kind.__name__}-{rank}")
"""


def test_several_processes_do_what_one_does_and_all_get_the_same_model(torchrun, tiny, tmp_path):
    """The same losses only without batch norm and dropout, and in float64: Adam makes much of float32's rounding."""
    output, status = torchrun(3, TOGETHER, json.dumps(RECIPE.as_dict()))
    assert status == 0, output
    weights = {
        kind: [load_file(tmp_path / f"{kind}-{rank}") for rank in range(3)] for kind in ("plain_model", "small_model")
    }
    for first, *others in weights.values():
        assert all(torch.equal(other[name], tensor) for other in others for name, tensor in first.items())
    assert load_history("small_model-0").epochs["val_accuracy"].iloc[-1] > 0.5
    model = plain_model(7).double()
    alone = fit(model, tiny, RECIPE, device="cpu")
    for rank in range(3):
        history = load_history(f"plain_model-{rank}")
        assert list(history.steps["loss"]) == pytest.approx(list(alone.steps["loss"]), rel=1e-6)
        timeless = ["epoch", "loss", "val_loss", "val_accuracy", "learning_rate"]
        pd.testing.assert_frame_equal(history.epochs[timeless], alone.epochs[timeless], rtol=1e-6)
        assert history.about["world_size"] == 3 and alone.about["world_size"] == 1
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights["plain_model"][0][name], tensor, rtol=1e-6, atol=1e-9)


CLI = """
main.load_mnist = lambda name: digits
main.make_model = lambda name: plain_model(int(os.environ.get("RANK", 0)))
main.get_recipe = lambda name: Recipe("brief", epochs=30, batch_size=48, schedule="one-cycle", seed=5)
{more}
sys.exit(main.main(["train", *sys.argv[1:]]))
"""
# How many of them run when Python ends.
THREADS = """
import atexit, glob
names = lambda: [Path(path).read_text() for path in glob.glob("/proc/self/task/*/comm")]
atexit.register(lambda: print(f"of gloo {sum('gloo' in name for name in names())} threads", flush=True))
"""
# The second of two processes is killed in the middle of a step.
DIE_AT_40 = """
from mnist_kit.training import Run
record = Run.record
def dying(run, loss):
    if run.step == 40 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    record(run, loss)
Run.record = dying
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
    alone = fit(plain_model(0), tiny, recipe, device="cpu")
    resumed = load_history("run")
    assert resumed.about["world_size"] == 3 and len(resumed.steps) == 180
    assert list(resumed.steps["loss"][:60]) == pytest.approx(list(alone.steps["loss"][:60]), rel=1e-2)


def test_seeds_are_spread_over_the_ranks_and_gathered_in_one_table(torchrun, tiny, home):
    brief = THREADS + 'main.get_recipe = lambda name: Recipe("brief", epochs=1, batch_size=48)'
    output, status = torchrun(2, CLI.format(more=brief), "--recipe", "x", "--name", "many", "--seeds", "0-2,7")
    assert status == 0, output
    table = pd.read_csv(home / "runs" / "many-seeds.csv")
    assert list(table["seed"]) == [0, 1, 2, 7]
    for row in table.itertuples():
        history = load_history(f"many-seed-{row.seed}")
        assert history.about["recipe"]["seed"] == row.seed and history.about["world_size"] == 1
        assert history.epochs["val_accuracy"].iloc[-1] == row.val_accuracy
    assert "seed 7 · epoch 1/1" in output and "mean" in output
    assert output.count("of gloo 0 threads") == 2  # they have ended with the group, else one may abort its process


def test_ctrl_c_stops_all_after_the_same_step(torchrun, home):
    slow = 'main.get_recipe = lambda name: Recipe("brief", epochs=2000, batch_size=48)'
    process = torchrun(2, CLI.format(more=slow), "--recipe", "x", "--name", "run", "--every", "1", wait=False)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((home / "checkpoints" / "run").glob("step-*[1-9].*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "stopped; the same command with --resume continues" in output
    assert "lost contact" not in output


@pytest.mark.parametrize(("rank", "size"), [("5", "2"), ("2", "2"), ("-1", "2"), ("0", "0"), ("0", "-1"), ("x", "2")])
def test_a_rank_that_is_none_of_the_processes_is_told_at_once(monkeypatch, rank, size):
    for name, value in {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="start them with torchrun"):
        join()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shards_are_equal_and_disjoint(size):
    parts = [World(rank, size).shard(torch.arange(24)) for rank in range(size)]
    assert torch.equal(torch.cat(parts), torch.arange(24)) and {len(part) for part in parts} == {24 // size}
