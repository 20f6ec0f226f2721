"""A Jupyter server and a headless browser on it, for the tests of the pad and its benchmark."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
KERNEL = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
PAGES = {"jupyterlab": "lab/tree", "notebook": "notebooks", "voila": "voila/render"}


@contextmanager
def running_lab(root: Path, app: str = "jupyterlab", **settings: str) -> Iterator[str]:
    """A server on the notebooks in root/notebooks; gives its address, with a place for a notebook's name in it.

    app: "jupyterlab", "notebook" (7) or "voila"; settings: environment variables of the server and its kernels.
    """
    token = secrets.token_hex(16)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": "0",
        "ServerApp.root_dir": str(root / "notebooks"),
        "LabApp.expose_app_in_browser": "True",
        "JupyterNotebookApp.expose_app_in_browser": "True",
    }
    server = "notebook" if app == "notebook" else "jupyterlab"  # Voilà is a page of either
    command = [sys.executable, "-m", server, "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = os.environ | {"HOME": str(root), "MNIST_KIT_HOME": str(root / "home")} | settings
    environment["JUPYTER_TOKEN"] = token  # on the command line every user of the machine could read it
    notebooks = (root / "notebooks").glob("*.ipynb")  # trusted, as by `make lab`: else a reload shows no widget
    subprocess.run(
        [sys.executable, "-m", "jupyter", "trust", *notebooks], env=environment, capture_output=True, check=True
    )
    log = (root / f"{app}.log").open("w+")
    server = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    try:
        yield f"{_address(server, root / f'{app}.log')}/{PAGES[app]}/{{}}?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:  # on a busy machine its kernels take longer to end
            server.kill()
            server.wait()
        log.close()


def _address(server: subprocess.Popen, log: Path) -> str:
    for _ in range(600):
        for port in reversed(re.findall(r"http://127\.0\.0\.1:(\d+)", log.read_text())):
            with suppress(OSError):  # it may be told before the server listens, or be that of a server before
                socket.create_connection(("127.0.0.1", int(port))).close()
                return f"http://127.0.0.1:{port}"
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
