"""Options and markers shared by all tests."""

import os
from pathlib import Path

import pytest

# Tests run side by side, one process on each core; PyTorch reads this when it is first imported, children inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=GOLDEN,
        help="folder with the sub-folders pyramid_flow/, harmony/ and metrics/ (default: the copies in the repository)",
    )
