"""Each notebook, opened in JupyterLab in a real browser, runs from top to bottom: in order, on real MNIST if found."""

import pytest
from conftest import PROJECT, REAL_DATA

from browser.conftest import ARTEFACTS, needs_chromium, open_notebook

STEMS = [path.stem for path in sorted((PROJECT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]

pytestmark = needs_chromium


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
    shown = str(outputs)
    assert REAL_DATA is None or "SYNTHETIC" not in shown.upper()
    assert stem != "04_metric_analysis" or "your own run" in shown
    ARTEFACTS.mkdir(exist_ok=True)
    canvases = page.locator(".jp-OutputArea canvas")
    if canvases.count():
        canvases.first.scroll_into_view_if_needed()
        page.wait_for_timeout(1_000)
    page.screenshot(path=ARTEFACTS / f"{stem}.png")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
