"""The pad in other places: Notebook 7, Voilà, while all cells are run, a saved notebook that nobody has run."""

import shutil

import nbformat
import pytest
from conftest import PROJECT

from benchmarks.jupyter_lab import KERNEL, running_lab
from browser.conftest import needs_chromium
from browser.test_pad import NOTEBOOK, SEVEN, PadOnScreen, cells, photograph, scroll_to_the_pad
from mnist_kit import Recognizer, WeightsError

pytestmark = needs_chromium
CELL = "from mnist_kit import DigitPad, Recognizer\npad = DigitPad(Recognizer.load())\npad"


@pytest.fixture
def root(tmp_path):
    """A folder with a notebook whose one cell shows a pad."""
    try:
        Recognizer.load()
    except WeightsError:
        pytest.skip("no weights ship with the package yet: the pad has nothing to answer with")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell("1 + 1")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "pad.ipynb")
    return tmp_path


def test_notebook_7(root, page):
    with running_lab(root, "notebook") as address:
        page.goto(address.format("pad.ipynb"))
        page.wait_for_function(f"() => {KERNEL}?.status === 'idle'")
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        pad = PadOnScreen(page)
        before = cells(page)
        pad.draw(SEVEN)
        pad.expect_answer("7")
        photograph(page, "notebook-7")
        for key in "ddabxd":  # Notebook 7 would delete cells, insert some, and cut the pad's
            page.keyboard.press(key)
        pad.press("undo")
        for key in "ddabxd":
            page.keyboard.press(key)
        page.wait_for_timeout(300)
        assert cells(page) == before and pad.sheet.is_visible()
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+y")
        pad.wait_for_ink(300, 150)
        page.evaluate("() => { jupyterapp.shell.currentWidget.context.model.dirty = true }")
        page.keyboard.press("Control+s")
        page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")


def test_the_pad_answers_while_the_cells_after_it_run(root, page):
    path = root / "notebooks" / "pad.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = 'import time\nwhile pad.number != "7":\n    time.sleep(0.05)'
    nbformat.write(notebook, path)
    with running_lab(root) as address:
        page.goto(address.format("pad.ipynb"))
        page.wait_for_function(f"() => {KERNEL}?.status === 'idle'")
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        pad = PadOnScreen(page)
        page.wait_for_timeout(1_000)  # as long as a reader takes to come to it, at the least
        pad.draw(SEVEN)
        pad.expect_answer("7")
        pad.expect_hint("")


def test_voila(root, page):
    with running_lab(root, "voila") as address:
        page.goto(address.format("pad.ipynb"))
        pad = PadOnScreen(page)
        pad.draw(SEVEN)
        pad.expect_answer("7")
        pad.press("erase")
        pad.draw([(200, 150), (400, 150)])
        pad.wait_for_ink(300, 150, inked=False)
        photograph(page, "voila")
        pad.press("clear")
        pad.expect_hint("draw a digit here")


@pytest.mark.parametrize("app", ["jupyterlab", "notebook"])
def test_a_saved_notebook_shows_the_picture_of_the_pad(page, app, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(PROJECT / "notebooks" / f"{NOTEBOOK}.ipynb", tmp_path / "notebooks")
    with running_lab(tmp_path, app) as address:
        page.goto(address.format(f"{NOTEBOOK}.ipynb"))
        page.wait_for_function("() => globalThis.jupyterapp?.shell.currentWidget?.content?.model?.cells?.length > 5")
        scroll_to_the_pad(page)
        picture = page.locator(".jp-OutputArea img").first
        picture.wait_for()
        assert picture.bounding_box()["width"] > 500
        photograph(page, f"saved-{app}")
        assert page.get_by_text("Error displaying widget").count() == 0
