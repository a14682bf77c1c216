"""The command ``avsync``, under a name that none of its packages has.

The console script imports this file first. A user's folder ``lightning_modules`` that precedes ours on the search path,
as ``PYTHONPATH=.`` brings it about, can thus not be taken for it.
"""

import sys
from pathlib import Path


def main() -> int:
    """Runs the command that ``sys.argv`` holds and returns its exit status."""
    before = list(sys.path)
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from lightning_modules.__main__ import main as run

    sys.path[:] = before
    return run()


if __name__ == "__main__":
    sys.exit(main())
