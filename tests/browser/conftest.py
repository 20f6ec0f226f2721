"""JupyterLab and a real browser, for the tests beside this file.

Screenshots are left in test-artefacts/, which git ignores: look at them.
"""

import shutil

import pytest
from conftest import PROJECT, REAL_DATA

from benchmarks.jupyter_lab import CHROMIUM, CHROMIUM_OPTIONS, KERNEL, running_lab

ARTEFACTS = PROJECT / "test-artefacts"
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install Debian's package chromium"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server on copies of the notebooks; yields its address with the token in it."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(PROJECT / "notebooks", root / "notebooks")
    with running_lab(root, MNIST_KIT_RECIPE="small", MNIST_KIT_DATA=str(REAL_DATA or root / "data")) as address:
        yield address


@pytest.fixture(scope="module")  # no longer: while Playwright runs, the tests of the pad would find its event loop
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.close()


def open_notebook(page, lab, stem):
    page.goto(lab.format(f"{stem}.ipynb"))
    page.wait_for_function(f"() => {KERNEL}?.status === 'idle'")
