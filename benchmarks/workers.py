"""Each contestant in a process of its own, so that its memory and its settings are its own; all wait but one."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection

# Forked from a process that has imported torch, each starts within milliseconds. Elsewhere that is not safe.
processes = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
processes.set_forkserver_preload(["benchmarks.contestants", "benchmarks.tried"])


class WorkerFailed(RuntimeError):
    """A contestant could not do what it was asked; the message is its error."""


class Worker:
    """An object made by `make(*arguments)` in a process of its own. It costs no time while it is not asked."""

    def __init__(self, make: Callable, *arguments):
        self.connection, theirs = processes.Pipe()
        self.process = processes.Process(target=_serve, args=(theirs, make, arguments), daemon=False)
        self.process.start()
        theirs.close()
        try:
            self._answer()
        except WorkerFailed:
            self.close()
            raise

    def ask(self, method: str, *arguments):
        """What `method(*arguments)` of the object returns. Raises WorkerFailed when it fails."""
        self.connection.send((method, arguments))
        return self._answer()

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()

    def _answer(self):
        try:
            failed, answer = self.connection.recv()
        except EOFError:
            self.process.join(10)
            raise WorkerFailed(f"its process ended with status {self.process.exitcode}") from None
        if failed:
            raise WorkerFailed(answer)
        return answer


def _serve(connection: Connection, make: Callable, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's: it closes the connection
    threading.Thread(target=_end_with_parent, daemon=True).start()
    subject = None
    try:
        while True:
            try:
                if subject is None:
                    subject, answer = make(*arguments), None
                else:
                    method, method_arguments = connection.recv()
                    answer = getattr(subject, method)(*method_arguments)
                connection.send((False, answer))
            except EOFError:
                return
            except Exception as error:
                if os.environ.get("BENCH_TRACEBACK"):
                    traceback.print_exc()
                first = (str(error).strip().splitlines() or [""])[0]
                connection.send((True, f"{type(error).__name__}: {first}"))
                if subject is None:
                    return
    except (BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # it was killed; nobody waits for an answer


@contextmanager
def workers(makers: dict[str, tuple]):
    """A Worker for each name of `makers` (the function and its arguments); all end with the block."""
    with ExitStack() as stack:
        started = {}
        for name, (make, *arguments) in makers.items():
            worker = Worker(make, *arguments)
            stack.callback(worker.close)
            started[name] = worker
        yield started


def alternating(names: Iterable, rounds: int):
    """(round, name), every name once a round, in turn forwards and backwards."""
    names = list(names)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name
