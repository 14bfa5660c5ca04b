"""What the terminal shows: everything, but for a few start-up lines known by name.

    with quiet_imports():                # the lines that importing the stack prints
        import mmdet.models
    add_filter(logger)                   # the lines that a run's logger repeats

The files keep all of it: the log of a run has the whole configuration, of which the terminal gets one line.
"""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator

# Printed by importing mmdet 3.5.1 (onedl), twice, when the author's own data client is not installed.
PRINTED = ("Could not import OneDL. Skipping OneDL datasets.",)
# An optional metric's warning at import: pycocotools is what this package uses.
WARNED = ("faster_coco_eval is not installed",)
# Logged whenever a file is opened by way of MMEngine's older interfaces.
LOGGED = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias of "LocalBackend"')
CONFIG = "Config:\n"  # how the record with the whole configuration begins


class _LineFilter(io.TextIOBase):
    """Passes text on, but for whole lines that are to be dropped."""

    def __init__(self, target: io.TextIOBase):
        self._target, self._line = target, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.strip() not in PRINTED:
                self._target.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._target.flush()

    def finish(self) -> None:
        """Pass on a last line without an end."""
        if self._line and self._line.strip() not in PRINTED:
            self._target.write(self._line)
        self._line = ""


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Inside, the lines of PRINTED and the warnings of WARNED are dropped; everything else passes."""
    passing = _LineFilter(sys.stdout)
    with warnings.catch_warnings(), contextlib.redirect_stdout(passing):
        for message in WARNED:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            passing.finish()


class _Once:
    """What a log file's handler does when it cannot write: one line, not a traceback for each message."""

    def __init__(self, name: str):
        self.name, self.told = name, False

    def __call__(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            print(f"warning: {self.name} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


class ConsoleFilter(logging.Filter):
    """Keeps the records of LOGGED and the whole configuration off the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not message.startswith((*LOGGED, CONFIG))


def add_filter(logger: logging.Logger) -> None:
    """Put the filter on a logger's terminal handlers. Its files keep every record, or say once that they cannot."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _Once(handler.baseFilename)
        on_terminal = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if on_terminal and not any(isinstance(one, ConsoleFilter) for one in handler.filters):
            handler.addFilter(ConsoleFilter())
