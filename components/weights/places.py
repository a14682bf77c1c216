"""Where on this disk something that has a name may be: in the working directory, or where avsync is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""Where the packages (and with them ``configs/weights``) are installed."""


def places(given: Path) -> list[Path]:
    """Where on this disk ``given`` may be: the first that exists is meant."""
    packaged = PACKAGE_ROOT / given
    # an absolute path joined to another stays itself
    return [given.absolute()] if packaged == given else [given.absolute(), packaged]


def located(name: str | Path) -> Path:
    """``name``, or what the package ships under that name where nothing lies there: ``configs/weights/...``."""
    given = Path(name).expanduser()
    packaged = PACKAGE_ROOT / given
    return packaged if not given.exists() and packaged.exists() else given
