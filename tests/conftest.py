"""Options and markers shared by all tests."""

import os
import sys
from pathlib import Path

import pytest

# Tests run side by side, one process on each core; PyTorch reads this when it is first imported, children inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What Python compiles is kept: else each process that a test starts compiles our packages, and each run all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

GOLDEN = Path(__file__).parent / "golden"
GIB_PER_WORKER = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=GOLDEN,
        help="folder with the sub-folders pyramid_flow/, harmony/ and metrics/ (default: the copies in the repository)",
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core, but none without memory for itself and for the runs of two processes that it starts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, available_gib() // GIB_PER_WORKER))


def available_gib() -> int:
    """Memory that new processes may have, by the machine and by the limits of its control group; many if unknown."""
    found = [1024 * 2**30]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        kib = [int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")]
        found += [1024 * value for value in kib]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # version 2 and 1 of control groups
        file = Path("/sys/fs/cgroup") / limit
        if file.exists() and file.read_text().strip().isdigit():
            found.append(int(file.read_text()))
    return min(found) // 2**30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes begin first, so that no core waits for the last of them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
