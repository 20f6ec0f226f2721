"""Stopping when asked to: Ctrl+C, and what a scheduler or the end of a remote session sends."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

END_SIGNALS = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # of a scheduler, of a lost terminal


@contextmanager
def handling(signals: Iterable[int], handler: Callable) -> Iterator[None]:
    """Within it `handler` gets these signals, but for those that are ignored, as under nohup.

    Nothing happens in another thread than the main one: only that one gets signals.
    """
    with ExitStack() as at_end:
        for number in signals if threading.current_thread() is threading.main_thread() else ():
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):
                at_end.callback(signal.signal, number, before)
                signal.signal(number, handler)
        yield


@contextmanager
def stopping_on_signals(run) -> Iterator[None]:
    """Within it Ctrl+C, SIGTERM and SIGHUP set `run.told_to_stop`. A second Ctrl+C raises KeyboardInterrupt at once.

    Afterwards SIGTERM and SIGHUP do what they otherwise do; an error that is raised is left to say what happened.
    """

    def stop(number: int, _frame: object) -> None:
        if number == signal.SIGINT and run.told_to_stop:
            raise KeyboardInterrupt
        run.told_to_stop = number

    with handling((signal.SIGINT, *END_SIGNALS), stop):
        yield
    if run.told_to_stop in END_SIGNALS:
        signal.raise_signal(run.told_to_stop)  # the state is saved: now it may end the process
