import os
import subprocess
import sys
import threading

import pytest

from mnist_kit.errors import StorageError
from mnist_kit.files import append_line, data_folder, figures_folder, home_folder, write_atomically


def test_folders_follow_the_two_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST_KIT_DATA", str(tmp_path / "a"))
    monkeypatch.setenv("MNIST_KIT_HOME", str(tmp_path / "b"))
    assert data_folder() == tmp_path / "a"
    assert home_folder() == tmp_path / "b"
    assert figures_folder() == tmp_path / "b" / "figs"


def test_folders_default_to_the_project(monkeypatch):
    monkeypatch.delenv("MNIST_KIT_DATA")
    monkeypatch.delenv("MNIST_KIT_HOME")
    assert data_folder() == home_folder()
    assert data_folder().name == "data"
    assert figures_folder() == data_folder().parent / "figs"


def test_without_the_project_a_user_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("MNIST_KIT_HOME")
    monkeypatch.setattr("mnist_kit.files.PACKAGE", tmp_path / "site-packages" / "mnist_kit")
    assert "mnist_kit" in home_folder().parts
    assert figures_folder() == home_folder() / "figs"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "kept.txt", b"old")

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(StorageError, match=r"kept\.txt.*No space left.*MNIST_KIT_HOME"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken"):
        write_atomically(tmp_path / "taken" / "file.txt", b"")
    with pytest.raises(StorageError, match="taken"):
        append_line(tmp_path / "taken" / "file.txt", "x")


def test_lines_appended_at_once_all_arrive_whole(tmp_path):
    path = tmp_path / "lines.jsonl"
    texts = [str(writer) * 5_000 for writer in range(8)]
    threads = [threading.Thread(target=lambda t=t: [append_line(path, t) for _ in range(20)]) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 160
    assert set(lines) == set(texts)


def test_every_public_name_loads_and_is_documented_and_importing_is_light():
    script = (
        "import sys, mnist_kit\n"
        "assert 'torch' not in sys.modules and 'ipywidgets' not in sys.modules\n"
        "from mnist_kit import fit, load_mnist, Net, Recognizer\n"
        "assert 'ipywidgets' not in sys.modules and 'anywidget' not in sys.modules\n"
        "for name in mnist_kit.__all__:\n"
        "    value = getattr(mnist_kit, name)\n"
        "    assert isinstance(value, dict) or value.__doc__, name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd="/")
