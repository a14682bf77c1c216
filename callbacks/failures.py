"""What becomes of a failure in a part that only watches a run: it is said once, kept, and does not end a training."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from lightning.pytorch import Trainer

T = TypeVar("T")

TRACEBACKS = logging.getLogger("avsync.tracebacks")
"""Gets the traceback of everything that is said in one sentence."""


@dataclass(frozen=True)
class Failure:
    """What a part could not do.

    Attributes:
        part: class of the callback or logger.
        action: what it was doing,
        subject: and to what, such as a clip.
        what: the exception, or what came out wrong.
        where: file and line, empty where nothing was raised.
        step: optimizer steps so far.
        rank: of the process.
    """

    part: str
    action: str
    subject: str
    what: str
    where: str = ""
    step: int = 0
    rank: int = 0

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        on = f" on rank {self.rank}" if self.rank else ""
        where = f" ({self.where})" if self.where else ""
        to = " ".join(filter(None, (self.action, self.subject)))
        return f"{self.part} failed to {to} at step {self.step}{on}: {self.what}{where}"


class RankFailed(RuntimeError):
    """A process has said that it failed, instead of giving what all of them exchange.

    Args:
        failures: what failed, on whichever rank.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__("; ".join(failure.sentence for failure in failures))
        self.failures = tuple(failures)


class ConnectionToRanksLost(RuntimeError):
    """The processes can no longer talk to each other: the run is over."""


@runtime_checkable
class KeepsFailures(Protocol):
    """A callback that goes on after failures.

    Attributes:
        failures: what failed in this run.
    """

    failures: FailureLog


class FailureLog(Sequence[Failure]):
    """The failures of one part; each kind is said when it happens first."""

    def __init__(self) -> None:
        self._all: list[Failure] = []
        self._said: set[tuple[str, str, str]] = set()

    def __getitem__(self, index: Any) -> Any:
        """One of them, in the order they came."""
        return self._all[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def add(self, failure: Failure, consequence: str, error: BaseException | None = None, say: bool = True) -> None:
        """Keeps a failure, and warns unless one of its kind was said before.

        Args:
            failure: what failed.
            consequence: how the run goes on.
            error: what was raised; its traceback goes to `TRACEBACKS`.
            say: warn in this process; of ranks that know of the same failure one is enough.
        """
        self._all.append(failure)
        kind = (failure.part, failure.action, failure.what.partition(":")[0])
        if kind not in self._said:
            self._said.add(kind)
            if error is not None:
                TRACEBACKS.error(failure.sentence, exc_info=error)
            if say:
                warnings.warn(f"{failure.sentence}; {consequence}", RuntimeWarning, stacklevel=2)

    @contextmanager
    def kept(self, trainer: Trainer, part: object, action: str, consequence: str, subject: str = "") -> Iterator[None]:
        """Keeps whatever is raised inside instead of letting it end the run; interruptions pass through.

        Args:
            trainer: of the run.
            part: the callback or logger at work.
            action: what it is doing.
            consequence: how the run goes on.
            subject: what it is doing it to.
        """
        try:
            yield
        except Exception as error:
            self.add(failure_of(trainer, part, action, error, subject), consequence, error)


def failure_of(trainer: Trainer, part: object, action: str, error: BaseException, subject: str = "") -> Failure:
    """What ``error`` says, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    message = " ".join(str(error).split())
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    name = type(part).__name__
    return Failure(name, action, subject, what, where, trainer.global_step, trainer.global_rank)


def collect_failures(trainer: Trainer) -> list[Failure]:
    """The failures of all callbacks, in the order of the callbacks."""
    callbacks: Sequence[object] = trainer.callbacks  # type: ignore[attr-defined]
    return [failure for one in callbacks if isinstance(one, KeepsFailures) for failure in one.failures]


def exchanged(trainer: Trainer, item: T | Failure) -> list[T]:
    """The items of all ranks on every rank, rank 0's first. Every rank has to call it as often as the others.

    A rank that has failed gives its failure instead, once, and exchanges nothing more: all others learn of it here,
    wherever they are, and none waits for it.

    Raises:
        RankFailed: on every rank, if any gave a failure.
        ConnectionToRanksLost: if a rank is gone.
    """
    parts: list[Any] = [item]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        try:
            # objects, not tensors: ranks may have different numbers of clips
            torch.distributed.all_gather_object(parts, item)
        except RuntimeError as error:
            raise ConnectionToRanksLost(str(error)) from error
    if failures := [part for part in parts if isinstance(part, Failure)]:
        raise RankFailed(failures)
    return parts
