"""The notebooks themselves run, small, in any order: on real MNIST where it is found, and on synthetic digits."""

import nbformat
import pytest
from conftest import PROJECT, REAL_DATA
from nbclient import NotebookClient

STEMS = [path.stem for path in sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


@pytest.fixture(scope="module")
def real_home(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def synthetic_home(tmp_path_factory):
    return tmp_path_factory.mktemp("synthetic")


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


@pytest.mark.parametrize("stem", STEMS)
def test_on_real_mnist_in_order(stem, real_home, monkeypatch):
    if REAL_DATA is None:
        pytest.skip("real MNIST is not here: set MNIST_KIT_DATA to the folder that holds MNIST/raw")
    shown = run(stem, real_home, REAL_DATA, monkeypatch)
    assert "SYNTHETIC" not in shown.upper()
    if stem == "04_metric_analysis":
        assert "your own run" in shown


@pytest.mark.parametrize("stem", STEMS[::-1])
def test_on_synthetic_digits_in_reverse(stem, synthetic_home, tmp_path, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there: no mirror can be reached
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    shown = run(stem, synthetic_home, tmp_path / "empty", monkeypatch)
    if "load_digits(" in (PROJECT / "notebooks" / f"{stem}.ipynb").read_text():
        assert "SYNTHETIC" in shown.upper()
    if stem == "04_metric_analysis":
        assert "the reference run that comes with the project" in shown
