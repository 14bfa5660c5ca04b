"""SIGTERM and SIGINT end a run at a place where nothing is lost.

    with Signals():
        for batch in batches:
            with deferred():            # a signal that arrives here waits ...
                step(batch)
            check()                     # ... and is raised here, or where the block ends

Outside a deferred block a signal raises `Interrupted` at once. A second signal ends the process on the spot; files are
whole or absent (see storage), so that is safe too. Without a `Signals` instance the functions do nothing.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import ClassVar

SHELL_OFFSET = 128  # a shell reports death by signal n as exit code 128 + n


class Interrupted(BaseException):
    """A signal asks the run to end. Like KeyboardInterrupt no Exception, so that no `except Exception` swallows it."""

    def __init__(self, exit_code: int):
        super().__init__(f"interrupted by {signal.Signals(exit_code - SHELL_OFFSET).name}")
        self.exit_code = exit_code


class Signals:
    """Handlers of SIGTERM (exit code 143) and SIGINT (130) for the time of a `with` block, in the main thread."""

    current: ClassVar["Signals | None"] = None

    def __init__(self) -> None:
        self.pending: int | None = None  # exit code of the signal that arrived
        self._depth = 0  # of nested deferred blocks
        self._earlier_handlers: dict[int, object] = {}
        self._outer: Signals | None = None

    def __enter__(self) -> "Signals":
        self._outer, Signals.current = Signals.current, self
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier_handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier_handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        Signals.current = self._outer

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            os._exit(SHELL_OFFSET + number)
        self.pending = SHELL_OFFSET + number
        if self._depth == 0:
            raise Interrupted(self.pending)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal that arrives inside is raised when the outermost such block ends (or by `check`)."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._depth == 0:
            self.check()

    def check(self) -> None:
        """Raise Interrupted when a signal is waiting; for places where stopping loses nothing."""
        if self.pending is not None:
            raise Interrupted(self.pending)


def deferred() -> contextlib.AbstractContextManager[None]:
    """`Signals.deferred` of the instance in force, if any."""
    return Signals.current.deferred() if Signals.current else contextlib.nullcontext()


def check() -> None:
    """`Signals.check` of the instance in force, if any."""
    if Signals.current:
        Signals.current.check()


def stop_requested() -> bool:
    """Whether a signal is waiting in this process; all-reduce it before acting when there are several."""
    return Signals.current is not None and Signals.current.pending is not None


def stop() -> None:
    """End the run now, as by the waiting signal; by SIGTERM when only another process received one."""
    check()
    raise Interrupted(SHELL_OFFSET + signal.SIGTERM)
