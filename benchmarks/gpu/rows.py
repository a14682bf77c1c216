"""What a row of the GPU benchmark is, and what it leaves behind: values, comparisons, a status."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: configurations and small weights are read from here, nothing is written."""


@dataclass(frozen=True)
class Place:
    """Where rows run.

    Attributes:
        device: ``cuda:0``, or ``cpu`` for a rehearsal at toy size.
        folder: the only folder that anything is written into.
    """

    device: str
    folder: Path

    @property
    def is_rehearsal(self) -> bool:
        """Whether there is no card and sizes are those of toys."""
        return self.device == "cpu"

    @property
    def backend(self) -> str:
        """Name of the device for autocast."""
        return self.device.split(":")[0]

    def wait(self) -> None:
        """Until everything that was asked of the device is done."""
        if not self.is_rehearsal:
            torch.cuda.synchronize(self.device)

    def new_folder(self, name: str) -> Path:
        """An empty folder below ``folder`` that no other call gives."""
        parent = self.folder / "rows"
        number = 1 + sum(1 for path in parent.glob(f"{name}-*")) if parent.exists() else 1
        fresh = parent / f"{name}-{number}"
        fresh.mkdir(parents=True)
        return fresh


class Notes:
    """What a row finds, handed on as soon as it is found: a row that is stopped half way keeps what it had.

    Args:
        tell: called with ``values`` or ``comparisons`` and one entry of it.
    """

    def __init__(self, tell: Callable[[str, dict[str, object]], None]) -> None:
        self._tell = tell
        self.failures: list[str] = []

    def value(self, **values: object) -> None:
        """Figures, or words about them; a figure's unit ends its name (``step_ms``, ``peak_gib``)."""
        self._tell("values", {name: plain(value) for name, value in values.items()})

    def compare(self, name: str, got: float, most: float) -> None:
        """A difference that must not exceed ``most``; the row fails if it does, and goes on."""
        passed = got <= most  # not for NaN
        self._tell("comparisons", {name: {"difference": plain(got), "allowed": most, "passed": passed}})
        if not passed:
            self.failures.append(f"{name} differs by {got:.3g}, allowed are {most:.3g}")

    def require(self, name: str, holds: bool) -> None:
        """Something that is true or not; the row fails if it is not, and goes on."""
        self._tell("comparisons", {name: {"passed": holds}})
        if not holds:
            self.failures.append(f"{name} does not hold")


Run = Callable[[Place, Notes], None]


@dataclass(frozen=True)
class Row:
    """One check or one measurement.

    Attributes:
        name: for ``--only``.
        about: one line for people.
        run: a function of a module (a worker process imports it), with a place and somewhere to put what it finds.
        expected_s: about how long it takes on a card; with less time left it is not begun.
        bound_s: it is ended after this long, whatever it does.
        needs: modules without which it is left out.
        in_ci: whether it takes seconds at toy size, so that tests may run it.
    """

    name: str
    about: str
    run: Run
    expected_s: float = 5.0
    bound_s: float = 40.0
    needs: tuple[str, ...] = ()
    in_ci: bool = True


def plain(value: object) -> object:
    """Something JSON can hold: numbers that are not finite become words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def relative_difference(got: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Norm of the difference of two lists of tensors by the norm of the second; infinite if anything is not finite."""
    error = size = 0.0
    for a, b in zip(got, wanted, strict=True):
        a, b = a.detach().cpu().double(), b.detach().cpu().double()
        error += float((a - b).square().sum())
        size += float(b.square().sum())
    return math.sqrt(error / size) if math.isfinite(error) and size > 0 else math.inf


def milliseconds(seconds: Iterable[float]) -> float:
    """Median of the rounds."""
    return 1000 * statistics.median(seconds)
