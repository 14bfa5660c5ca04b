"""Where a run's lines go: the console of its first process, and log.txt with times."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import World


class _Console(logging.StreamHandler):
    """Writes to whatever sys.stdout is at the time (it may be redirected); of several only the first speaks."""

    def __init__(self, world: World):
        super().__init__()
        prefix = f"[rank {world.rank}] " if not world.is_main else ""
        self.setLevel(logging.INFO if world.is_main else logging.WARNING)
        self.setFormatter(_ConsoleFormat(f"{prefix}%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if self is next(handler for handler in logging.getLogger().handlers if isinstance(handler, _Console)):
            super().emit(record)

    @property
    def stream(self) -> Any:
        return sys.stdout

    @stream.setter
    def stream(self, value: Any) -> None: ...


class _ConsoleFormat(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return level + super().format(record)


class _LogFile(logging.FileHandler):
    """On a full disk one line, not a traceback for each message."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True
            print(f"warning: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


def attach_handlers(log_file: Path, world: World) -> list[logging.Handler]:
    """Console and log.txt for everything logged, whoever logs it."""
    handlers: list[logging.Handler] = [_Console(world)]
    logging.getLogger("shared").setLevel(logging.INFO)
    if world.is_main:
        handler = _LogFile(log_file, encoding="utf-8", delay=True)
        formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        handlers.append(handler)
    for handler in handlers:
        logging.getLogger().addHandler(handler)
    return handlers
