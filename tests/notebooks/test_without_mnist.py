"""The notebooks run on synthetic digits too, and in any order."""

import pytest
from conftest import PROJECT
from running import STEMS, run


@pytest.fixture(scope="module")
def synthetic_home(tmp_path_factory):
    return tmp_path_factory.mktemp("synthetic")


@pytest.mark.parametrize("stem", [stem for stem in STEMS[::-1] if stem != "05_draw_digits"])  # it loads no digits
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
