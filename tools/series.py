"""Execute the notebooks in order, headless: on copies (`make run`), or in place to be committed (`make notebooks`)."""

import argparse
import base64
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

from mnist_kit import MnistKitError, best_device, load_history, load_mnist, recipe_for
from mnist_kit.files import figures_folder, home_folder, project_folder, write_atomically

PROJECT = project_folder()
FOLDER = PROJECT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
ANSWERS = sorted(FOLDER.glob("answers/[0-9][0-9]_*.ipynb"))


def main() -> int:
    """Exit status: 0, or 1 when a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-place", action="store_true", help="write the outputs into notebooks/")
    parser.add_argument(
        "numbers", nargs="*", help="only these, such as 04 or answers/04; default: all, answers in place only"
    )
    options = parser.parse_args()
    notebooks = NOTEBOOKS + ANSWERS if options.in_place or options.numbers else NOTEBOOKS
    if options.numbers:
        named = {str(path.relative_to(FOLDER)).partition("_")[0]: path for path in notebooks}
        notebooks = [path for number, path in named.items() if number in options.numbers]
    try:
        done = run_in_place(notebooks) if options.in_place else run_copies(notebooks)
    except MnistKitError as error:
        print(error)
        done = False
    return 0 if done else 1


def run_copies(notebooks: list[Path]) -> bool:
    """Copies go to the home folder, executed as far as they came."""
    started = time.time()
    folder = home_folder() / "executed"
    print(f"Executing {len(notebooks)} notebooks; copies go to {folder}")
    for path in notebooks:
        notebook, done = execute(path)
        write_atomically(folder / path.relative_to(FOLDER), nbformat.writes(notebook).encode())
        if not done:
            return False
    print_results(time.time() - started)
    return True


def run_in_place(notebooks: list[Path]) -> bool:
    """The notebooks as a first-time reader runs them: on MNIST, in order, in one home folder that is empty at first.

    A notebook that fails stays as it was. Raises DataNotFound without MNIST.
    """
    load_mnist()
    os.environ.pop("MNIST_KIT_RECIPE", None)
    with tempfile.TemporaryDirectory() as home:
        os.environ["MNIST_KIT_HOME"] = home
        for path in notebooks:
            notebook, done = execute(path)
            if not done:
                return False
            write_atomically(path, nbformat.writes(notebook).encode())
        for figure in Path(home).glob("figs/*/*.png"):  # what README shows; not the run just made
            shown = PROJECT / "figs" / "reference" / figure.name
            if shown.exists() and figure.parent.name in ("reference", "mnist"):
                shutil.copy(figure, shown)
    return True


def execute(path: Path) -> tuple[nbformat.NotebookNode, bool]:
    """Run the notebook at `path` from top to bottom and say how it went; returns it with its outputs, and success."""
    notebook = nbformat.read(path, as_version=4)
    cells = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    started = time.time()

    def show_cell(cell, cell_index):
        if sys.stdout.isatty() and cell_index in cells:
            print(f"\r{path.stem:<24} cell {cells.index(cell_index) + 1} of {len(cells)} ", end="", flush=True)

    client = NotebookClient(
        notebook,
        timeout=None,
        resources={"metadata": {"path": str(path.parent)}},
        coalesce_streams=True,  # a progress bar leaves its last state, not each of them
        on_cell_start=show_cell,
    )
    failure = None
    try:
        client.execute(stderr=subprocess.DEVNULL)  # the kernel's own log; what cells print comes another way
    except (CellExecutionError, DeadKernelError) as error:
        failure = error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day: a difference in every commit
        for output in cell.get("outputs", []):  # without its kernel a widget shows an error, and its picture does not
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    notebook.metadata.pop("widgets", None)  # breaks the preview on code hosts
    outcome = "failed" if failure else "done"
    print(f"\r{path.stem:<24} {outcome} in {time.time() - started:5.0f} s   ", flush=True)
    if failure:
        print(failure)
    return notebook, failure is None


def smaller(png: str) -> str:
    """A picture, base64, in at most 256 colours: a third of the bytes, and hardly an eye sees it."""
    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256, Image.Quantize.MEDIANCUT).save(file, "PNG", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode() + "\n", key=len)


def print_results(seconds: float) -> None:
    """What the series made: the run that was trained last, and where everything is."""
    home = home_folder()
    recipe = recipe_for(best_device()).name  # the run of notebook 3 is called after it
    latest = max((home / "runs").glob(f"{recipe}-*.npz"), key=lambda path: path.stat().st_mtime, default=None)
    if latest is None:
        return
    history = load_history(latest.stem)
    last = history.epochs.iloc[-1]
    rows = {
        "data set": history.about["data"],
        "recipe": f"{history.about['recipe']['name']}, {len(history.epochs)} epochs, {len(history.steps):,} steps",
        "trained on": history.about["device"],
        f"{history.held_back} accuracy": f"{last.val_accuracy:.2%} (exact; the paper's mean of batches: "
        f"{history.epochs['batch_accuracy'].iloc[-1]:.3%})",
        "losses": f"{last.loss:.4f} training, {last.val_loss:.4f} {history.held_back}",
        "seconds": f"{history.epochs.seconds.sum():.0f} training with evaluation, {seconds:.0f} in all",
        "figures": figures_folder(),
        "weights": home / "weights" / f"{latest.stem}.safetensors",
        "history": latest,
        "executed copies": home / "executed",
    }
    print()
    for title, value in rows.items():
        print(f"{title:<16} {value}")


if __name__ == "__main__":
    sys.exit(main())
