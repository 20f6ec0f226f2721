"""The package as a wheel, installed where there is no project."""

import os
import shutil
import subprocess
import sys

from conftest import PROJECT

PROGRAM = """
from mnist_kit import Recognizer, files, home_folder, load_history, sample_drawing
from mnist_kit.export import PAGE
print(Recognizer.load().predict(sample_drawing(7, seed=1)).digit, files.project_folder(), PAGE.is_file(), home_folder())
print(files.__file__)
assert len(load_history().epochs) == 25
"""


def run(*command, **options):
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_wheel_works_outside_the_project(tmp_path):
    source, installed, home = tmp_path / "source", tmp_path / "installed", tmp_path / "home"
    shutil.copytree(PROJECT / "mnist_kit", source / "mnist_kit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, source)
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel)
    home.mkdir()
    settings = {name: value for name, value in os.environ.items() if not name.startswith("MNIST_KIT")}
    settings |= {"PYTHONPATH": str(installed), "HOME": str(home), "XDG_DATA_HOME": str(home)}
    answer, place = run("-c", PROGRAM, cwd=home, env=settings).splitlines()
    assert answer.startswith("7 None True ")
    assert str(home) in answer or os.name == "nt"  # Windows asks no variable where the user's folder is
    assert place.startswith(str(installed))
    assert not list(home.iterdir()), "it wrote something, and nobody asked it to"
