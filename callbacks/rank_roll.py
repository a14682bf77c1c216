"""Who the processes of a run are, so that one that is gone can be named."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.failures import exchanged

_DYING_S = 3.0
"""A process that is killed loses its connections a moment before it is gone."""


@dataclass(frozen=True)
class Member:
    """One process.

    Attributes:
        rank: of the process.
        host: name of its machine.
        space: what its process id counts in: the same in all containers that see each other's processes.
        pid: its process id.
    """

    rank: int
    host: str
    space: str
    pid: int


class RankRoll(Callback):
    """Every rank learns where the others are when a run begins.

    Attributes:
        members: all of them, rank 0 first; empty for a run of one process.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._rank = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Calls the roll."""
        if trainer.world_size > 1:
            self._rank = trainer.global_rank
            self.members = exchanged(trainer, Member(self._rank, socket.gethostname(), _space(), os.getpid()))

    def lost(self) -> str:
        """Which ranks no longer answer, in words, once the connection to one was lost; waits for it to be gone."""
        if not self.members:
            return "another rank"
        me = self.members[self._rank]
        beside = [one for one in self.members if one is not me and (one.host, one.space) == (me.host, me.space)]
        until = time.monotonic() + _DYING_S
        while not (gone := [one for one in beside if not _runs(one.pid)]) and time.monotonic() < until:
            time.sleep(0.05)
        if gone:
            return _named(gone)
        elsewhere = [one for one in self.members if one.host != me.host]
        hosts = ", ".join(sorted({one.host for one in elsewhere}))
        return f"one of {_named(elsewhere)} on {hosts}" if elsewhere else "another rank"


def _named(members: Sequence[Member]) -> str:
    ranks = ", ".join(str(one.rank) for one in members)
    return f"rank {ranks}" if len(members) == 1 else f"ranks {ranks}"


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux: one for the whole machine
        return ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = re.search(r"^State:\s+(\w)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return state is None or state[1] not in "ZX"  # one that has ended and was not asked about yet
    except ProcessLookupError:
        return False
    except OSError:  # of another user, or no Linux
        return True
