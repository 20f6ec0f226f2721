"""Stopping when asked to: Ctrl+C, and what a scheduler or the end of a remote session sends."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

END_SIGNALS = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # of a scheduler, of a lost terminal


@contextmanager
def handling(signals: Iterable[int], handler: Callable) -> Iterator[None]:
    """Within it `handler` gets these signals, but for those that are ignored, as under nohup.

    Nothing happens in another thread than the main one: only that one gets signals.
    """
    before = {number: signal.getsignal(number) for number in signals}
    before = {number: own for number, own in before.items() if own not in (signal.SIG_IGN, None)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)


@contextmanager
def stopping_on_signals(run) -> Iterator[None]:
    """Within it Ctrl+C, SIGTERM and SIGHUP set `run.told_to_stop`. A second Ctrl+C raises KeyboardInterrupt at once.

    Afterwards SIGTERM and SIGHUP do what they otherwise do.
    """

    def stop(number: int, _frame: object) -> None:
        if number == signal.SIGINT and run.told_to_stop:
            raise KeyboardInterrupt
        run.told_to_stop = number

    try:
        with handling((signal.SIGINT, *END_SIGNALS), stop):
            yield
    finally:
        if run.told_to_stop in END_SIGNALS:
            signal.raise_signal(run.told_to_stop)  # the state is saved: now it may end the process
