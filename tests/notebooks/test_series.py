"""The notebooks run in order, on real MNIST where it is found; with a browser, `browser/test_lab.py` does this."""

import pytest
from conftest import REAL_DATA
from running import STEMS, run

from benchmarks.jupyter_lab import CHROMIUM

if CHROMIUM:
    pytest.skip("they run in the browser: browser/test_lab.py", allow_module_level=True)


@pytest.fixture(scope="module")
def real_home(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.mark.parametrize("stem", STEMS)
def test_on_real_mnist_in_order(stem, real_home, monkeypatch):
    if REAL_DATA is None:
        pytest.skip("real MNIST is not here: set MNIST_KIT_DATA to the folder that holds MNIST/raw")
    shown = run(stem, real_home, REAL_DATA, monkeypatch)
    assert "SYNTHETIC" not in shown.upper()
    if stem == "04_metric_analysis":
        assert "your own run" in shown
