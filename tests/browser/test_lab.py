"""Each notebook, opened in JupyterLab in a real browser, runs from top to bottom.

Screenshots are left in test-artefacts/, which git ignores: look at them.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys

import pytest
from conftest import PROJECT, REAL_DATA

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEMS = [path.stem for path in sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
ARTEFACTS = PROJECT / "test-artefacts"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install Debian's package chromium"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server on copies of the notebooks; yields its address with the token in it."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(PROJECT / "notebooks", root / "notebooks")
    token = secrets.token_hex(16)
    settings = {"MNIST_KIT_HOME": str(root / "home"), "MNIST_KIT_RECIPE": "small", "HOME": str(root)}
    settings["MNIST_KIT_DATA"] = str(REAL_DATA or root / "data")
    options = {
        "IdentityProvider.token": token,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": "0",
        "ServerApp.root_dir": str(root / "notebooks"),
        "LabApp.expose_app_in_browser": "True",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = (root / "lab.log").open("w+")
    server = subprocess.Popen(command, env=os.environ | settings, stderr=log, stdout=log)
    try:
        address = _address(server, root / "lab.log")
        yield f"{address}/lab/tree/{{}}?token={token}&reset"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _address(server, log):
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
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
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )


def run_all(page):
    """Clear what is saved, run all cells, and return their outputs, a list a code cell."""
    page.evaluate(
        """async () => {
            const commands = window.jupyterapp.commands;
            await commands.execute('editmenu:clear-all');
            commands.execute('notebook:run-all-cells');
        }"""
    )
    cells = "[...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === 'code')"
    page.wait_for_function(
        f"""() => {{
            const cells = {cells};
            const failed = cells.some(cell => cell.outputs.toJSON().some(output => output.output_type === 'error'));
            return failed || cells.every(cell => cell.executionCount !== null && cell.executionState !== 'running');
        }}""",
        timeout=300_000,
    )
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    return page.evaluate(f"() => {cells}.map(cell => cell.outputs.toJSON())")


@pytest.mark.parametrize("stem", STEMS)
def test_a_notebook_runs_top_to_bottom_in_jupyterlab(lab, page, stem):
    open_notebook(page, lab, stem)
    outputs = run_all(page)
    errors = [output for cell in outputs for output in cell if output["output_type"] == "error"]
    assert not errors, errors[0]["ename"] + ": " + errors[0]["evalue"]
    assert sum(bool(cell) for cell in outputs) >= len(outputs) // 2
    ARTEFACTS.mkdir(exist_ok=True)
    canvases = page.locator(".jp-OutputArea canvas")
    if canvases.count():
        canvases.first.scroll_into_view_if_needed()
        page.wait_for_timeout(1_000)
    page.screenshot(path=ARTEFACTS / f"{stem}.png")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
