"""Execute the notebooks in order, headless: on copies (`make run`), or in place to be committed (`make notebooks`)."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mnist_kit import MnistKitError, load_history
from mnist_kit.files import figures_folder, home_folder, project_folder, write_atomically

PROJECT = project_folder()
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def main() -> int:
    """Exit status: 0, or 1 when a notebook failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-place", action="store_true", help="write the outputs into notebooks/")
    options = parser.parse_args()
    started = time.time()
    done = run_in_place() if options.in_place else run_copies()
    if done and not options.in_place:
        print_results(started)
    return 0 if done else 1


def run_copies() -> bool:
    folder = home_folder() / "executed"
    print(f"Executing {len(NOTEBOOKS)} notebooks; copies go to {folder}")
    return all(execute(path, folder / path.name) for path in NOTEBOOKS)


def run_in_place() -> bool:
    """Each notebook as a first-time reader opens it: with a home folder of its own that is empty."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as home:
            os.environ["MNIST_KIT_HOME"] = home
            if not execute(path, path):
                return False
            figures = Path(home) / "figs" / "reference"
            if figures.is_dir():
                shutil.copytree(figures, PROJECT / "figs" / "reference", dirs_exist_ok=True)
    return True


def execute(path: Path, target: Path) -> bool:
    """Run the notebook at `path` from top to bottom and write it, with its outputs, to `target`; say how it went."""
    notebook = nbformat.read(path, as_version=4)
    cells = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    started = time.time()

    def show_cell(cell, cell_index):
        if sys.stdout.isatty() and cell_index in cells:
            print(f"\r{path.stem:<24} cell {cells.index(cell_index) + 1} of {len(cells)} ", end="", flush=True)

    client = NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}, on_cell_start=show_cell
    )
    failure = None
    try:
        client.execute()
    except CellExecutionError as error:
        failure = error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day: a difference in every commit
    notebook.metadata.pop("widgets", None)  # breaks the preview on code hosts
    write_atomically(target, nbformat.writes(notebook).encode())
    outcome = "failed" if failure else "done"
    print(f"\r{path.stem:<24} {outcome} in {time.time() - started:5.0f} s   ", flush=True)
    if failure:
        print(failure)
    return failure is None


def print_results(started: float) -> None:
    """What the series made: the run that was trained last, and where everything is."""
    home = home_folder()
    runs = sorted((home / "runs").glob("*.npz"), key=lambda path: path.stat().st_mtime)
    name = runs[-1].stem
    try:
        history = load_history(name)
    except MnistKitError as error:
        print(error)
        return
    last = history.epochs.iloc[-1]
    rows = {
        "data set": history.about["data"],
        "recipe": f"{history.about['recipe']['name']}, {len(history.epochs)} epochs, {len(history.steps):,} steps",
        "trained on": history.about["device"],
        "test accuracy": f"{last.val_accuracy:.2%} (exact; the paper's mean of batches: "
        f"{history.about['paper_accuracy'][-1]:.3%})",
        "losses": f"{last.loss:.4f} training, {last.val_loss:.4f} test",
        "seconds": f"{history.epochs.seconds.sum():.0f} training with evaluation, {time.time() - started:.0f} in all",
        "figures": figures_folder(),
        "weights": home / "weights" / f"{name}.safetensors",
        "history": runs[-1],
        "executed copies": home / "executed",
    }
    print()
    for title, value in rows.items():
        print(f"{title:<16} {value}")


if __name__ == "__main__":
    sys.exit(main())
