"""Signals wait while a search is open: their handlers see the training as it was before, never in the middle of a candidate.

    outside               restoring          inside `unwinding`
    to its own handler    waits              waits, and Interrupted is raised

Only signals that have a handler in Python are touched: Ctrl-C, and those by which a cluster asks for a checkpoint. What is
ignored stays ignored, and what kills the process kills it at once. Knows Python's signals; knows no training.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


class Interrupted(BaseException):
    """A signal came in the middle of a search. Not an `Exception`, so that no ``except Exception`` carries on regardless."""


# Ctrl-C, the end of a job, a terminal that closes, a cluster's warning before the end; not every system has all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
# Where nothing may be raised: a context manager would not end what it began, and what a destructor raises is lost.
_NOT_IN = ("__enter__", "__exit__", "__del__")


class Signals:
    """The signals that came while their handlers had to wait; itself what handles them meanwhile. Made by `signals_held`."""

    def __init__(self) -> None:
        self._handlers: dict[int, Handler] = {}
        self._came: list[int] = []
        self._unwinds = self._over = False
        self._process = os.getpid()

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Keep a signal until its handler may see it; where there is something to unwind, unwind it."""
        if self._over or os.getpid() != self._process:  # of a loader's worker, which was forked from here
            self._handlers[signum](signum, frame)
            return
        if signum not in self._came:
            self._came.append(signum)
        if self._unwinds and (frame is None or frame.f_code.co_name not in _NOT_IN):
            self._unwinds = False  # once: a second signal must not disturb what the first has set going
            self.check()

    def check(self) -> None:
        """Raise where a signal waits: to be asked now and then, for one that came where it could not be raised, or that somebody
        swallowed.

        Raises:
            Interrupted: If a signal waits.
        """
        if self._came:
            names = ", ".join(signal.Signals(signum).name for signum in self._came)
            raise Interrupted(f"{names} came in the middle of a search, and everything was put back as it was before.")

    @contextmanager
    def unwinding(self) -> Iterator[None]:
        """Inside, a signal raises Interrupted at once; so does, on entering, one that came before.

        Raises:
            Interrupted: If a signal comes.
        """
        self._unwinds = True
        try:
            self.check()
            yield
        finally:
            self._unwinds = False

    def hold(self) -> None:
        """Stand in for every handler written in Python."""
        for signum in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            handler = signal.getsignal(signum)
            if callable(handler):  # neither the default, nor ignored, nor set by who knows what other language
                self._handlers[signum] = handler
                signal.signal(signum, self)

    def release(self) -> None:
        """Put the handlers back, then tell them what came, in its order."""
        self._over = True  # from here on, what comes goes straight to its handler
        try:
            for signum, handler in self._handlers.items():
                if signal.getsignal(signum) is self:  # not where a new one was installed meanwhile
                    signal.signal(signum, handler)
        finally:
            self._tell()

    def _tell(self) -> None:
        """Each handler its signal: one that raises does not keep the others from their turn."""
        if self._came:
            signum = self._came.pop(0)
            try:
                self._handlers[signum](signum, None)
            finally:
                self._tell()


@contextmanager
def signals_held() -> Iterator[Signals]:
    """Inside, signals wait; afterwards their handlers are back, and hear of them.

    Where a handler raises, as Ctrl-C's does, that is what leaves; where it only takes note, Interrupted goes on. In threads other
    than the main one Python has no signals, and nothing happens.

        with signals_held() as signals, preserved(model, optimizer), signals.unwinding():
            ...

    Raises:
        Interrupted: From `Signals.unwinding`, if nobody catches it inside.
    """
    signals = Signals()
    try:
        if threading.current_thread() is threading.main_thread():
            signals.hold()
        yield signals
    finally:
        signals.release()
