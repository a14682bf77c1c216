"""Processes that tests start say how they ended, and none outlives its test."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.processes import run_ranks


def tell(folder: Path) -> int:
    rank = os.environ.get("RANK", "alone")
    assert "lightning_modules.command_line.cli" in sys.modules and Path.cwd() == folder
    sys.stdout.write(f"rank {rank} of {os.environ.get('WORLD_SIZE')}, {os.environ['OMP_NUM_THREADS']} thread\n")
    return 0 if rank == "alone" else 3 + int(rank)


def fail(folder: Path) -> None:
    raise ValueError("on purpose")


def leave_a_child(folder: Path) -> None:
    (folder / "child").write_text(str(subprocess.Popen(["sleep", "600"]).pid))


def hang(folder: Path) -> None:
    time.sleep(600)


def test_ranks_are_told_who_they_are(tmp_path: Path):
    ended = run_ranks(tell, (tmp_path,), 2, folder=tmp_path)
    assert [one.status for one in ended] == [3, 4]
    assert [one.said for one in ended] == [f"rank {rank} of 2, 1 thread\n" for rank in range(2)]
    (alone,) = run_ranks(tell, (tmp_path,), 1, folder=tmp_path)
    assert (alone.status, alone.said) == (0, "rank alone of None, 1 thread\n")


def test_what_fails_says_why_and_what_hangs_is_ended(tmp_path: Path):
    (failed,) = run_ranks(fail, (tmp_path,), 1)
    assert failed.status == 1 and "ValueError: on purpose" in failed.said
    (hung,) = run_ranks(hang, (tmp_path,), 1, timeout_s=1.0)
    assert hung.status == -signal.SIGABRT


def test_nobody_is_left(tmp_path: Path):
    (ended,) = run_ranks(leave_a_child, (tmp_path,), 1)
    assert ended.status == 0
    state = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    until = time.monotonic() + 60
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)
