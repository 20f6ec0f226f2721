import os
import subprocess
import sys
import threading

import pytest

from mnist_kit.errors import StorageError
from mnist_kit.files import append_line, data_folder, figures_folder, home_folder, is_plain_name, write_atomically


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


def test_a_torn_last_line_swallows_no_other(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"torn")
    append_line(path, "whole")
    assert path.read_bytes() == b"torn\nwhole\n"


@pytest.mark.skipif(sys.platform != "linux", reason="a file size limit stands for a full disk")
def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    path = append_line(tmp_path / "lines.jsonl", "first")
    script = (
        "import resource, signal, sys\n"
        "from mnist_kit.files import append_line\n"
        "from mnist_kit.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))\n"
        "try:\n"
        "    append_line(sys.argv[1], 'x' * 100)\n"
        "except StorageError:\n"
        "    append_line(sys.argv[1], 'short')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.read_text() == "first\nshort\n"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_files_have_the_rights_that_the_reader_chose(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
        append_line(tmp_path / "b", "")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o640, 0o640]


def test_what_a_killed_save_left_is_removed_by_the_next_and_a_save_under_way_is_not(tmp_path):
    script = (
        "import os, sys\n"
        "from mnist_kit.files import write_atomically\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "write_atomically(sys.argv[1], b'half')\n"
    )
    path = tmp_path / "run[1].npz"
    subprocess.run([sys.executable, "-c", script, str(path)])
    (tmp_path / f".run[1].npz.{os.getppid()}.1.tmp").write_text("another process is still writing")
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(path, b"whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f".run[1].npz.{os.getppid()}.1.tmp", "run[1].npz"]


def test_names_of_files():
    assert all(map(is_plain_name, ["a", "class-mnist.2", "ä", "x" * 100, "console", "com10"]))
    paths, devices = [".", "..", ".hidden", "a/b", "a\\b"], ["NUL", "con.txt", "lpt1", "COM¹", "lpt³.a"]
    assert not any(map(is_plain_name, [*paths, *devices, None, 5, "", "a b", "a\n", "a\0b", "end.", "x" * 101]))


def test_every_public_name_is_documented_and_no_widget_is_imported_unasked():
    script = (
        "import sys, mnist_kit\n"
        "heavy = {'ipywidgets', 'anywidget', 'ipycanvas', 'IPython', 'matplotlib', 'torchvision'}\n"
        "assert not heavy & set(sys.modules)\n"
        "for name in mnist_kit.__all__:\n"
        "    value = getattr(mnist_kit, name)\n"
        "    assert isinstance(value, dict) or value.__doc__, name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd="/")
