"""Rows of the GPU benchmark that go wrong; a module of their own, because every process that runs one imports it."""

import os
import signal
import subprocess
import sys
import time

import torch

from benchmarks.gpu.rows import Notes, Place


def finds_something(place: Place, notes: Notes) -> None:
    notes.value(answer=42, drawn=float(torch.rand(())), process=os.getpid())
    notes.compare("difference", 0.1, 0.2)


def is_wrong(place: Place, notes: Notes) -> None:
    notes.compare("not a number", float("nan"), 1.0)
    notes.compare("too large", 2.0, 1.0)
    notes.require("truth", holds=False)


def raises(place: Place, notes: Notes) -> None:
    notes.value(before=1)
    raise RuntimeError("on purpose")


def hangs(place: Place, notes: Notes) -> None:
    child = subprocess.Popen(["sleep", "600"])
    notes.value(before=2, child=child.pid)
    time.sleep(600)


def dies(place: Place, notes: Notes) -> None:
    notes.value(before=3)
    sys.stderr.write("last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
