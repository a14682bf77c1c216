"""Noise levels of straight paths, and the solvers that walk down them: diffusers' own, one for each modality.

``x_s = (1 - s) x_0 + s n`` with the noise level s from 1 to 0; the velocity is ``n - x_0`` and the timestep ``1000 s``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from components.errors import InputError

NUM_TRAIN_TIMESTEPS = 1000
Solver = Literal["unipc", "euler"]


@dataclass(frozen=True)
class FlowSchedule:
    """Noise levels bent towards noise, ``k s / (1 + (k - 1) s)``, and the solver between them.

    Attributes:
        solver: ``unipc`` (second order, as released with Wan) or ``euler``.
        shift: k; 5 for Wan2.2, 1 bends nothing.

    Raises:
        InputError: for an unknown solver or a shift that is not positive.
    """

    solver: Solver = "unipc"
    shift: float = 5.0

    def __post_init__(self) -> None:
        if self.solver not in ("unipc", "euler"):
            raise InputError(f"FlowSchedule.solver is '{self.solver}': give unipc or euler.")
        if not self.shift > 0:
            raise InputError(f"FlowSchedule.shift is {self.shift}; it must be positive.")

    def start(self, num_steps: int) -> FlowTrajectory:
        """The way from noise to data in ``num_steps`` steps."""
        # imported late: diffusers takes seconds, and training needs no solver
        from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

        scheduler_class: Any  # diffusers has no types
        settings: dict[str, object]
        if self.solver == "unipc":
            scheduler_class = UniPCMultistepScheduler
            # as in Wan2.2's scheduler config: the model gives velocities, and its shift bends the levels
            settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": self.shift}
        else:
            scheduler_class, settings = FlowMatchEulerDiscreteScheduler, {"shift": self.shift}
        scheduler = scheduler_class(num_train_timesteps=NUM_TRAIN_TIMESTEPS, **settings)
        scheduler.set_timesteps(num_steps)
        scheduler.set_begin_index(0)  # steps are taken in order; UniPC's whole timesteps may repeat in long schedules
        return FlowTrajectory(scheduler)


class FlowTrajectory:
    """One walk from noise to data; a solver of higher order keeps earlier velocities.

    Args:
        scheduler: diffusers' scheduler with its timesteps set.

    Attributes:
        timesteps: float32 ``[steps]``, the model's input.
        sigmas: float32 ``[steps + 1]``, noise levels between which the steps lead; the last is 0.
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.timesteps: Tensor = scheduler.timesteps.float()
        self.sigmas: Tensor = scheduler.sigmas

    def step(self, index: int, velocity: Tensor, sample: Tensor) -> Tensor:
        """``sample`` one noise level further down, float32. Indices are taken in order, each once."""
        # the scheduler wants its own number back, whole in UniPC; sigmas follow from its inner index
        timestep = self._scheduler.timesteps[index]
        # copied once, without waiting; the scheduler would copy single levels in every step
        self._scheduler.sigmas = self._scheduler.sigmas.to(sample.device, non_blocking=True)
        # float32: multistep differences of velocities cancel in bfloat16
        with _UncheckedSolve():
            moved: Tensor = self._scheduler.step(velocity.float(), timestep, sample.float(), return_dict=False)[0]
        return moved


class _UncheckedSolve(TorchFunctionMode):
    """UniPC solves for two weights in every step; whether it could is read from the device, and it always can."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.linalg.solve:
            return torch.linalg.solve_ex(*args, **(kwargs or {})).result
        return func(*args, **(kwargs or {}))
