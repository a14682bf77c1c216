"""Options and markers shared by all tests."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=GOLDEN,
        help="folder with the sub-folders pyramid_flow/, harmony/ and metrics/ (default: the copies in the repository)",
    )
