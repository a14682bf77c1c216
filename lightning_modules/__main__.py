"""``python -m lightning_modules`` is the command ``avsync``."""

import sys

from lightning_modules.command_line.startup import import_torchmetrics, own_packages_first


def main() -> int:
    """Prepares the search path, then runs the command that ``sys.argv`` holds and returns its exit status."""
    own_packages_first()
    from lightning_modules.command_line.extra_commands import run_extra  # what it imports must be ours

    if (status := run_extra(sys.argv[1:])) is not None:
        return status
    import_torchmetrics()
    from torch import distributed as dist

    from lightning_modules.command_line.cli import main as run

    status = run()
    if status == 0 and dist.is_available() and dist.is_initialized():
        # Lightning leaves gloo's to the interpreter's end, where a thread of it that still runs aborts the process
        dist.destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main())
