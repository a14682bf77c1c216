"""Says in one sentence why a run did not end well: bad input, a full disk, a killed worker, a rank that is gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException

from callbacks.failures import ConnectionToRanksLost, Failure
from components.errors import InputError
from lightning_modules.checkpoints.storage import causes, storage_error

_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited unexpectedly)"
)
_LOST = re.compile(
    r"gloo.*(?:Connection|Broken pipe|[Tt]imed out)|Connection closed by peer \[|ncclRemoteError|remote process exited"
)


class RunBroken(Exception):
    """The machine has ended a run: memory, disk, a process that is gone."""


class EvaluationFailed(Exception):
    """An evaluation has come to its end, but not with everything it was to tell.

    Args:
        command: ``validate`` or ``test``.
        failures: what failed, at least one.
    """

    def __init__(self, command: str, failures: Sequence[Failure]) -> None:
        super().__init__(f"{command} is not complete: {'; '.join(failure.sentence for failure in failures)}")


def broken_run_sentence(error: BaseException, lost_ranks: Callable[[], str]) -> str | None:
    """What ended a run that was well configured, or None if ``error`` says something else.

    Args:
        error: what ended it.
        lost_ranks: names the ranks that are gone; asked only if the connection to one was lost.
    """
    for cause in causes(error):
        if found := _WORKER.search(str(cause)):
            return _of_worker(found[1], found[2])
        if isinstance(cause, ConnectionToRanksLost | dist.DistNetworkError) or _LOST.search(str(cause)):
            return (
                f"the connection to {lost_ranks()} was lost, and the run cannot go on without it; look at what that "
                "process said last and whether its machine ran out of memory, then go on with --ckpt_path last"
            )
    # itself, not what an exception was raised on the way from: that one may have been about something else
    if isinstance(error, OSError) and storage_error(error) is error:
        what = f"'{error.filename}'" if error.filename else "a file of the run"
        return f"{what} cannot be written or read: {error.strerror}; make room, give the permission or another folder"
    return None


def _of_worker(pids: str, signal: str | None) -> str:
    how = f"was killed ({signal})" if signal else "ended without a word"
    why = (
        "shared memory ran out: give /dev/shm more room"
        if signal and "Bus" in signal
        else "most often the machine or the job ran out of memory: give it more"
    )
    return (
        f"a worker process of the data loader (pid {pids}) {how}; {why}, or lower data.init_args.num_workers or "
        "data.init_args.batch_size"
    )


def input_error_sentence(error: BaseException) -> str | None:
    """The sentence of the `InputError` that caused ``error``, or None if something else did.

    The configuration parser re-raises what a constructor raises, and a data loader's worker process sends its
    traceback as the message of a new exception of the same class.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MisconfigurationException):
            return " ".join(str(cause).split())
        if isinstance(cause, InputError):
            return str(cause).rpartition(f"{InputError.__name__}: ")[2].strip()
        cause = cause.__cause__
    return None
