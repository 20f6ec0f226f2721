"""How the tests execute a notebook."""

import nbformat
from conftest import PROJECT
from nbclient import NotebookClient

STEMS = [path.stem for path in sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


def run(stem, home, data, monkeypatch):
    """The notebook as its readers run it, with the recipe that takes seconds. Returns all that it shows, as text."""
    monkeypatch.setenv("MNIST_KIT_HOME", str(home))
    monkeypatch.setenv("MNIST_KIT_DATA", str(data))
    monkeypatch.setenv("MNIST_KIT_RECIPE", "small")
    notebook = nbformat.read(PROJECT / "notebooks" / f"{stem}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(PROJECT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(shown)
