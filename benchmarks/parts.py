"""The small measurements: importing, recognising, and what watching and keeping a run costs."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.machine import digits_called, wait_for
from benchmarks.report import number, spread, table
from benchmarks.workers import Worker, alternating
from mnist_kit import PAPER, Callback, LiveCurves, Net, Recognizer, Run, fit, sample_drawing

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = ("import torch, torchvision", "import mnist_kit", "from mnist_kit import Net, fit")
TIMED_IMPORT = """
import sys, time
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
widgets = [name for name in sys.modules if name in ("ipywidgets", "anywidget")]
print(seconds, *widgets)
"""


def measure_imports(rounds: int = 5) -> dict:
    """Seconds of each statement in a fresh interpreter, alternating; × those of torch with torchvision; widgets that
    came along.
    """
    for statement in IMPORTS:  # the files are read from the disk once before anything counts
        _import(statement)
    seconds, widgets = {statement: [] for statement in IMPORTS}, set()
    for _, statement in alternating(IMPORTS, rounds):
        took, *came = _import(statement)
        seconds[statement].append(float(took))
        if statement != IMPORTS[0]:
            widgets.update(came)
    base = seconds[IMPORTS[0]]
    return {
        "seconds": {statement: spread(values) for statement, values in seconds.items()},
        "times_torch": {
            statement: statistics.median(value / other for value, other in zip(values, base, strict=True))
            for statement, values in seconds.items()
        },
        "widgets": sorted(widgets),
    }


def _import(statement: str) -> list[str]:
    code = TIMED_IMPORT.format(statement=statement)
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout.split()


class Recognising:
    """Times a Recognizer with the shipped weights, on the CPU."""

    def __init__(self, data: str):
        self.images = digits_called(data).test.images
        self.recognizer = Recognizer.load()

    def one(self, times: int) -> dict:
        """Milliseconds of `predict` on one thread: a 28×28 picture, and a drawing, which has to be drawn first."""
        torch.set_num_threads(1)
        picture, drawing = self.images[0, 0].numpy(), sample_drawing(7)
        measured = {}
        for name, subject in {"picture": picture, "drawing": drawing}.items():
            seconds = [_seconds(lambda subject=subject: self.recognizer.predict(subject)) for _ in range(times + 10)]
            measured[name] = spread(seconds[10:], 1000)
        return measured

    def many(self, rounds: int) -> dict:
        """Seconds for all test images at once, framed already and as rasters that have to be framed."""
        rasters = [image[0] for image in self.images.numpy()]
        rasters = [raster if raster.any() else raster + 255 for raster in rasters]
        work = {
            "predict_images": lambda: self.recognizer.predict_images(self.images),
            "predict_rasters": lambda: self.recognizer.predict_rasters(rasters),
        }
        seconds = {name: [] for name in work}
        for _, name in alternating(work, rounds):
            seconds[name].append(_seconds(work[name]))
        return {"images": len(rasters), **{name: spread(values) for name, values in seconds.items()}}


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_recognising(data: str, times: int = 200, rounds: int = 3) -> dict:
    """One image and all test images through a Recognizer."""
    worker = Worker(Recognising, data)
    try:
        return {"many": worker.ask("many", rounds), "one": worker.ask("one", times)}
    finally:
        worker.close()


class Timed(Callback):
    """Another callback, and the seconds it takes."""

    def __init__(self, callback: Callback):
        self.callback, self.seconds = callback, 0.0

    def on_start(self, run: Run) -> None:
        self._time(self.callback.on_start, run)

    def on_step(self, run: Run) -> None:
        self._time(self.callback.on_step, run)

    def on_epoch(self, run: Run) -> None:
        self._time(self.callback.on_epoch, run)

    def on_end(self, run: Run) -> None:
        self._time(self.callback.on_end, run)

    def _time(self, method, run: Run) -> None:
        started = time.perf_counter()
        method(run)
        self.seconds += time.perf_counter() - started


def watched(data: str, device: str, steps: int, rounds: int) -> dict:
    """Seconds of runs of `steps` steps, bare and with LiveCurves and checkpoints. LiveCurves draws in a notebook only:
    call it in one. Alternating, and each run evaluates on one image only, so that training is all there is.
    """
    digits = digits_called(data)
    digits = replace(digits, test=digits.test.first(1))
    recipe = replace(PAPER, name="bench", epochs=1, train_images=steps * PAPER.batch_size)
    model = Net()
    fit(model, digits, replace(recipe, train_images=2 * recipe.batch_size), device=device)  # to warm up
    bare, both, own = [], [], []
    for turn, way in alternating(["bare", "both"], rounds):
        curves = Timed(LiveCurves())
        keep = {"checkpoint": f"bench-{turn}"} if way == "both" else {}
        started = time.perf_counter()
        fit(model, digits, recipe, [curves] if way == "both" else [], device, **keep)
        wait_for(torch.device(device))
        seconds = time.perf_counter() - started
        (both if way == "both" else bare).append(seconds)
        if way == "both":
            own.append(curves.seconds / seconds)
    return {
        "steps": recipe.steps_per_epoch(len(digits.train)),
        "bare": spread(bare),
        "watched": spread(both),
        "extra": spread([with_ / without - 1 for with_, without in zip(both, bare, strict=True)]),
        "curves_own_share": spread(own),
    }


def measure_watching(data: str, device: str, steps: int = 300, rounds: int = 3) -> dict:
    """`watched` in a notebook's kernel. {"skipped": why} where there is no nbclient."""
    if find_spec("nbclient") is None:
        return {"skipped": "nbclient is not installed, and LiveCurves draws in a notebook only"}
    import nbformat
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        cell = (
            "import json, pathlib\nfrom benchmarks.parts import watched\n"
            f"measured = watched({data!r}, {device!r}, {steps}, {rounds})\n"
            f"pathlib.Path({str(answer)!r}).write_text(json.dumps(measured))"
        )
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        # The checkpoints of the measurement are nobody's: they go with the folder.
        environment = os.environ | {"MNIST_KIT_HOME": folder}
        environment.setdefault("MNIST_KIT_DATA", str(ROOT / "data"))
        client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": ROOT}})
        client.execute(env=environment)
        return json.loads(answer.read_text())


def describe_imports(measured: dict) -> str:
    """The table of `measure_imports`."""
    rows = [
        [f"`{statement}`", number(seconds["median"]), f"{measured['times_torch'][statement]:.2f} ×"]
        for statement, seconds in measured["seconds"].items()
    ]
    widgets = ", ".join(measured["widgets"]) or "none"
    return table(["in a fresh interpreter", "s", "of torch"], rows) + f"\n\nWidget modules imported: {widgets}."


def describe_recognising(measured: dict) -> str:
    """The table of `measure_recognising`."""
    one, many = measured["one"], measured["many"]
    rows = [[f"one {name} through `predict`, 1 thread", number(one[name]["median"], " ms")] for name in one]
    rows += [
        [f"{many['images']:,} at once through `{name}`", number(many[name]["median"], " s")]
        for name in ("predict_images", "predict_rasters")
    ]
    return table(["recognising", "median"], rows)


def describe_watching(measured: dict) -> str:
    """The lines of `measure_watching`."""
    if "skipped" in measured:
        return f"Watching and keeping a run: skipped, {measured['skipped']}."
    extra, own = measured["extra"], measured["curves_own_share"]
    rows = [
        ["median of the pairs", f"{extra['median']:+.1%}", f"{own['median']:.2%}"],
        ["lowest and highest", f"{extra['lowest']:+.1%} {extra['highest']:+.1%}", f"{own['highest']:.2%}"],
    ]
    about = f"LiveCurves and checkpoints, in a notebook, {extra['count']} pairs of runs of {measured['steps']} steps"
    return table([about, "longer than the bare run", "share spent in LiveCurves"], rows)
