"""Training gives the recorded losses, step by step, and a small change of the objective would be seen."""

import json
from typing import Any

import pytest

from components.objectives.cross_task import CrossTaskSynergy
from components.objectives.motion_aware import MotionAwareLoss
from tests.golden_losses.record import CURVES, NUM_STEPS, file_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TOLERANCE = 1e-4  # other processors and instruction sets differ by about 1e-6


def recorded(system: str) -> list[float]:
    losses: list[float] = json.loads(file_of(system).read_text())["loss"]
    return losses


@pytest.mark.parametrize("system", CURVES)
def test_a_tiny_run_trains_as_recorded(system: str) -> None:
    found, expected = CURVES[system](), recorded(system)
    assert len(found) == len(expected) == NUM_STEPS
    assert found == pytest.approx(expected, rel=TOLERANCE), (
        f"the losses of {system} changed: if that is meant, record them anew (python -m tests.golden_losses.record "
        f"{system}) and explain the change in CHANGELOG.md"
    )


@pytest.mark.parametrize("system", CURVES)
def test_the_recorded_run_learns(system: str) -> None:
    losses = recorded(system)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


@pytest.mark.parametrize(
    ("system", "change"),
    [
        ("syncphony", {"loss": MotionAwareLoss(weight=1.01, first_motion_latent=1)}),
        ("harmony", {"tasks": CrossTaskSynergy("all", audio_driven_weight=0.101)}),
    ],
)
def test_a_changed_objective_would_be_seen(system: str, change: dict[str, Any]) -> None:
    assert CURVES[system](num_steps=3, **change) != pytest.approx(recorded(system)[:3], rel=TOLERANCE)
