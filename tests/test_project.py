"""The project holds together: one list of dependencies, a clean style, notebooks fit to be read as they are."""

import json
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import PROJECT
from nbconvert import HTMLExporter

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
ANSWERS = sorted((PROJECT / "notebooks" / "answers").glob("*.ipynb"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "opencv-python-headless": "opencv"}


def test_pyproject_and_environment_yml_list_the_same():
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    from_pyproject = {f"python{wanted['requires-python']}"}
    for requirement in wanted["dependencies"]:
        name, version = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        from_pyproject.add(CONDA_NAMES.get(name, name) + version)
    lines = (PROJECT / "environment.yml").read_text().split("dependencies:")[1].splitlines()
    from_conda = {line.split("#")[0].strip(" -") for line in lines} - {"", "pip", "pip:", "e ."}
    assert from_conda == from_pyproject


@pytest.mark.parametrize("file", ["pyproject.toml", "environment.yml"])
def test_every_dependency_says_what_it_is_for(file):
    for line in (PROJECT / file).read_text().splitlines():
        if re.search(r"\w[>=]=\d", line) and "requires" not in line:
            assert "# " in line, line


def test_every_dependency_is_pinned_for_the_tests():
    pinned = set(re.findall(r"^([\w.-]+)==", (PROJECT / "constraints.txt").read_text(), flags=re.M))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    listed = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in listed} <= pinned
    assert "://" not in (PROJECT / "constraints.txt").read_text()


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_style(command):
    result = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", [*NOTEBOOKS, *ANSWERS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_reads_well(path):
    text = path.read_text()
    notebook = json.loads(text)
    assert "widgets" not in notebook["metadata"], "widget state breaks the preview on code hosts"
    assert str(PROJECT) not in text
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lengths = sorted(len("".join(cell["source"]).splitlines()) for cell in code)
    assert lengths[len(lengths) // 2] <= 4 and lengths[int(0.9 * (len(lengths) - 1))] <= 12 and lengths[-1] <= 25
    assert len(text) < 600_000
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it: make notebooks"
    prose = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    assert len(" ".join(prose).split()) >= 6 * sum(lengths)
    assert "GLOSSARY.md)" in prose[-1].splitlines()[-1], "the last line leads on"
    for cell in code:
        printed = ["".join(output.get("text", "")) for output in cell["outputs"] if output["output_type"] == "stream"]
        assert max(map(len, "\n".join(printed).splitlines()), default=0) <= 120
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert len(cell["metadata"].get("alt", "")) >= 30, "a picture needs a description: metadata.alt of its cell"
    if path in NOTEBOOKS:
        assert "What you will learn" in prose[0]
        assert "What we saw" in prose[-1] or "What we saw" in prose[-2]
        assert "Exercises" in prose[-1]


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_every_exercise_has_its_answer(path):
    chapter = PROJECT / "notebooks" / path.name
    exercises = re.split(r"^## ", prose_of(chapter).partition("## Exercises")[2], flags=re.M)[0]
    numbers = re.findall(r"^(\d+)\. ", exercises, flags=re.M)
    assert re.findall(r"^## Exercise (\d+)$", prose_of(path), flags=re.M) == numbers
    assert f"(answers/{path.name})" in exercises


def test_as_html_every_picture_has_its_description():
    exporter = HTMLExporter(extra_template_basedirs=[str(PROJECT / "tools")], template_name="described")
    page, _ = exporter.from_filename(PROJECT / "notebooks" / "11_what_it_looks_at.ipynb")
    assert page.count("<img alt=") >= 10 and "No description has been provided" not in page


GLOSSARY = PROJECT / "notebooks" / "GLOSSARY.md"


def prose_of(path):
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def headings(path):
    titles = re.findall(r"^#+ (.+)$", prose_of(path), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    for path in [*NOTEBOOKS, *ANSWERS, GLOSSARY, PROJECT / "README.md", PROJECT / "benchmarks" / "README.md"]:
        for target, entry in re.findall(r"\]\(([\w./-]+)(?:#([\w-]+))?\)", prose_of(path)):
            found = (path.parent / target).resolve()
            assert found.exists(), f"{path.name} links to {target}"
            assert not entry or entry in headings(found), f"{path.name} links to {entry}, which {target} lacks"


def test_the_glossary_is_in_order_and_its_words_are_used():
    titles = [title.lower() for title in re.findall(r"^### (.+)$", prose_of(GLOSSARY), flags=re.M)]
    assert titles == sorted(titles)
    prose = " ".join(prose_of(path).lower() for path in NOTEBOOKS)
    for title in titles:
        word = max(title.split(), key=len)  # "max pooling" may be broken at the end of a line
        assert word[:8] in prose, f"no notebook says {title!r}"


def test_the_series_is_small_enough_for_a_code_host():
    assert len(NOTEBOOKS) >= 5
    assert sum(path.stat().st_size for path in [*NOTEBOOKS, *ANSWERS]) < 6_000_000
