"""Processes that begin with everything imported: forked from a server that has paid for the imports once.

Python takes several seconds to import torch, Lightning and our packages. Tests whose subject is what several processes
do together, not how a process starts, begin theirs here. How ``python -m lightning_modules`` starts, and Lightning
starts a second one, is the subject of tests/lightning_modules/command_line/: ``test_startup.py``, ``test_plugins.py``,
``test_broken_runs.py``.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

ROOT = Path(__file__).resolve().parents[1]
SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(["tests.preloaded"])
_OF_A_RANK = ("NODE_RANK", "RANK", "LOCAL_RANK")


@dataclass(frozen=True)
class Ended:
    """How a process ended, and all that it said."""

    status: int
    said: str


def told(ended: Sequence[Ended], most: int = 4000) -> str:
    """How each process ended, with the first and the last of what it said, between which stacks are long."""
    excerpts = [e.said if len(e.said) <= 2 * most else f"{e.said[:most]}\n[...]\n{e.said[-most:]}" for e in ended]
    return "\n".join(f"status {e.status}:\n{said}" for e, said in zip(ended, excerpts, strict=True))


def served(function: Callable[..., Any], *arguments: Any, name: str | None = None) -> Any:
    """A process, not yet started, that calls ``function``; it has one thread, as ``OMP_NUM_THREADS=1`` gives it."""
    with _environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)):
        forkserver.ensure_running()
    return SERVED.Process(target=function, args=arguments, name=name)


def run_ranks(
    function: Callable[..., int | None],
    arguments: tuple[Any, ...],
    ranks: int,
    folder: Path = ROOT,
    timeout_s: float = 300.0,
) -> list[Ended]:
    """Calls ``function(*arguments)`` in processes that know each other as those of ``torchrun`` do.

    Args:
        function: of a module; what it returns is the exit status, None being 0.
        arguments: of the function.
        ranks: how many processes. One alone is told nothing of ranks.
        folder: the working directory.
        timeout_s: whoever is still there then says where it is and is ended.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    # what a run within this process has left behind, such as a port that it still listens on
    inherited = {name: value for name, value in os.environ.items() if name not in {*shared, *_OF_A_RANK}}
    with TemporaryDirectory() as logs:
        files = [Path(logs) / str(rank) for rank in range(ranks)]
        processes = []
        for rank, file in enumerate(files):
            own = {**shared, **dict(zip(_OF_A_RANK, ("0", str(rank), str(rank)), strict=True))} if ranks > 1 else {}
            environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **own}
            processes.append(served(_begin, function, arguments, environment, folder, file))
            processes[-1].start()
        until = time.monotonic() + timeout_s
        try:
            for process in processes:
                process.join(max(0.0, until - time.monotonic()))
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGABRT)
                    process.join(30)
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                process.join()
        return [
            Ended(process.exitcode, file.read_text() if file.exists() else "")
            for process, file in zip(processes, files, strict=True)
        ]


def free_port() -> int:
    """A port nobody listens on, below those that the system gives to connections, which would be taken meanwhile."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("none of 100 ports between 20000 and 32000 is free")


def _begin(
    function: Callable[..., int | None],
    arguments: tuple[Any, ...],
    environment: Mapping[str, str],
    folder: Path,
    said: Path,
) -> None:
    """In the new process: a session, an output, an environment and a place of its own."""
    os.setsid()
    with said.open("wb") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Lightning read it when it was imported, which was before there were ranks
    rank_zero_only.rank = int(environment.get("RANK", "0"))
    sys.exit(function(*arguments))


@contextlib.contextmanager
def _environment(**changes: str) -> Any:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
