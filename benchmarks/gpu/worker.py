"""A process that runs rows one after the other, and its parent's end of the line.

No row can hang or spoil the others: the parent ends the process after a row's time, or finds it dead, and starts
another one for the next row.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.results import machine_facts
from benchmarks.gpu.rows import Notes, Place, Row

START_S = 180.0
"""Bound for the start of a process: Python, PyTorch and the card."""
_CLEAN_UP_S = 30.0
_LOG_FILE = "worker.log"


@dataclass(frozen=True)
class Outcome:
    """How a row ended.

    Attributes:
        status: ``passed``, ``failed``, ``timed out`` or ``crashed``.
        seconds: how long it ran.
        reason: one line; empty if it passed.
        traceback: of what it raised, or the last lines of a process that died.
    """

    status: str
    seconds: float
    reason: str = ""
    traceback: str = ""


class Worker:
    """The parent's end: starts the process when a row needs one.

    Args:
        place: where rows run.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._process: Any = None
        self._line: Connection | None = None
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        """Starts the process, if none runs, and learns about the machine from it.

        Raises:
            RuntimeError: if it does not come up.
        """
        if self._process is not None:
            return
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.place), name="rows")
        self._process.start()
        theirs.close()
        self._line = ours
        reply = self._reply(time.monotonic() + START_S)
        if reply is None or reply[0] != "facts":
            self.stop()
            raise RuntimeError(f"no process for the rows came up: {reply}; see {self.place.folder / _LOG_FILE}")
        self.facts = reply[1]

    def run(self, row: Row, bound_s: float, tell: Callable[[str, dict[str, object]], None]) -> Outcome:
        """Runs one row for at most ``bound_s`` seconds.

        Args:
            row: what to run.
            bound_s: seconds.
            tell: called with what the row finds, as it finds it.
        """
        begin = time.monotonic()
        try:
            self.start()
        except RuntimeError as error:
            return Outcome("crashed", time.monotonic() - begin, str(error))
        assert self._line is not None
        begin = time.monotonic()  # the start of a process is not the row's
        self._line.send(row)
        while True:
            reply = self._reply(begin + bound_s)
            seconds = time.monotonic() - begin
            if reply is None:
                alive = self._process.is_alive()
                status = self.stop()
                if alive:
                    return Outcome("timed out", seconds, f"ended after {bound_s:.0f} s")
                return Outcome("crashed", seconds, f"its process ended with status {status}", self._log())
            if reply[0] != "ended":
                tell(*reply)
                continue
            failures, raised = reply[1], reply[2]
            self._after()
            if raised:
                return Outcome("failed", seconds, raised.strip().rpartition("\n")[2], raised)
            return Outcome("failed" if failures else "passed", seconds, "; ".join(failures))

    def finish(self) -> None:
        """Lets the process end by itself, which takes a moment, and then sees to it."""
        if self._line is not None and self._process is not None:
            self._line.close()
            self._process.join(10)
        self.stop()

    def stop(self) -> int | None:
        """Ends the process and all that it started; returns its exit status."""
        if self._process is None:
            return None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads a group of its own, with its programs in it
        self._process.kill()
        self._process.join()
        status: int | None = self._process.exitcode
        self._process = None
        if self._line is not None:
            self._line.close()
        return status

    def _after(self) -> None:
        """Lets the process clean up; one that cannot is of no use any more."""
        if self._reply(time.monotonic() + _CLEAN_UP_S) != ("ready",):
            self.stop()

    def _reply(self, deadline: float) -> Any:
        """The next message, or None if there is none in time or nobody to send it."""
        assert self._line is not None
        try:
            return self._line.recv() if self._line.poll(max(0.0, deadline - time.monotonic())) else None
        except (EOFError, OSError):
            self._process.join(5)
            return None

    def _log(self) -> str:
        file = self.place.folder / _LOG_FILE
        return "\n".join(file.read_text(errors="replace").splitlines()[-40:]) if file.exists() else ""


def _serve(line: Connection, place: Place) -> None:
    """The process: rows until the parent has no more."""
    os.setpgid(0, 0)
    set_start_method(None, force=True)  # loaders start their processes as they do anywhere else
    _log_into(place.folder / _LOG_FILE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    line.send(("facts", machine_facts(place.device)))
    while True:
        try:
            row: Row = line.recv()
        except EOFError:
            return
        notes, raised = Notes(lambda kind, entry: line.send((kind, entry))), ""
        try:
            _as_new(place)
            row.run(place, notes)
            place.wait()  # an error of a kernel may only show now
        except Exception:
            raised = traceback.format_exc()
        line.send(("ended", notes.failures, raised))
        try:
            _clean_up(place)
        except Exception:  # a card that reports errors from now on: only another process can use it
            traceback.print_exc()
            os._exit(3)
        line.send(("ready",))


def _log_into(file: Path) -> None:
    """Whatever rows and libraries print goes into a file."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable(sys.stderr)


def _end_with_parent() -> None:
    """A parent that is killed cannot end this process."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _as_new(place: Place) -> None:
    """No row meets random numbers, peaks or settings of another one."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    if not place.is_rehearsal:
        torch.cuda.reset_peak_memory_stats(place.device)


def _clean_up(place: Place) -> None:
    gc.collect()
    if not place.is_rehearsal:
        torch.cuda.synchronize(place.device)
        torch.cuda.empty_cache()
