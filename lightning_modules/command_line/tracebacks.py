"""Where the traceback of what is said in one sentence is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from callbacks.failures import TRACEBACKS

VARIABLE = "AVSYNC_TRACEBACK"
"""Set to anything, it shows tracebacks on screen, on every rank."""
TRACEBACKS_FILE = "tracebacks.log"


@contextmanager
def tracebacks_kept() -> Iterator[None]:
    """Tracebacks go nowhere but to the screen, if asked for, and to the files of `keep_tracebacks_in`."""
    before = TRACEBACKS.handlers[:], TRACEBACKS.propagate
    TRACEBACKS.handlers, TRACEBACKS.propagate = [logging.NullHandler()], False
    if os.environ.get(VARIABLE):
        TRACEBACKS.addHandler(logging.StreamHandler())
    try:
        yield
    finally:
        for handler in TRACEBACKS.handlers:
            handler.close()
        TRACEBACKS.handlers, TRACEBACKS.propagate = before


def keep_tracebacks_in(folder: Path) -> None:
    """Adds ``<folder>/tracebacks.log``, which is there once there is something to keep."""
    handler = _Quiet(folder / TRACEBACKS_FILE, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    TRACEBACKS.addHandler(handler)


class _Quiet(logging.FileHandler):
    """What cannot be kept is left out: the sentence has been said, and the disk may be what fails."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a traceback if the folder can be written to."""
        try:
            super().emit(record)
        except OSError:
            self.stream = None

    def handleError(self, record: logging.LogRecord) -> None:
        """Leaves it out."""
