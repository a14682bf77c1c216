"""The pyramid schedule against the reference schedules: noise levels, timesteps, jumps, Euler steps."""

import json

import pytest
import torch
from safetensors.torch import load_file

from components.schedules.pyramid_schedule import PyramidSchedule, euler_step


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "schedule_case" in metafunc.fixturenames:
        path = metafunc.config.getoption("--golden-dir") / "pyramid_flow/scheduler/scheduler.json"
        cases = json.loads(path.read_text())["cases"] if path.exists() else []
        metafunc.parametrize("schedule_case", cases, ids=[f"scheduler.json-{c['name']}" for c in cases])


@pytest.fixture
def schedule(schedule_case: dict) -> PyramidSchedule:
    return PyramidSchedule(**schedule_case["args"])


@pytest.fixture
def tensors(pytestconfig: pytest.Config) -> dict[str, torch.Tensor]:
    return load_file(pytestconfig.getoption("--golden-dir") / "pyramid_flow/scheduler/scheduler.safetensors")


def test_noise_levels(schedule_case, schedule):
    assert schedule.nominal_start == pytest.approx(schedule_case["original_start_sigma"], abs=1e-6)
    assert schedule.start_sigma == pytest.approx(schedule_case["start_sigma"], abs=1e-6)
    assert schedule.end_sigma == pytest.approx(schedule_case["end_sigma"], abs=1e-6)
    for mine, golden in zip(schedule.timestep_ratio, schedule_case["timestep_ratio"], strict=True):
        assert mine == pytest.approx(golden, abs=1e-6)


def test_inference_timesteps(schedule_case, schedule):
    for stage in schedule_case["stages"]:
        for steps, expected in stage["inference"].items():
            timesteps, local = schedule.inference_points(stage["stage"], int(steps))
            assert timesteps == pytest.approx(expected["timesteps"], abs=3e-4)
            assert local == pytest.approx(expected["local_sigmas"], abs=1e-6)


def test_jumps(schedule_case, schedule):
    found = 0
    for stage in schedule_case["stages"]:
        values = stage.get("renoise") or stage
        if "alpha" in values:
            found += 1
            assert schedule.jump(stage["stage"]) == pytest.approx((values["alpha"], values["beta"]), abs=1e-6)
    assert found == schedule.stages - 1


def test_training_tables(schedule_case, schedule, tensors):
    name = schedule_case["name"]
    for stage in range(schedule.stages):
        mine, golden = schedule.train_timesteps[stage], tensors[f"{name}.train_timesteps.{stage}"]
        torch.testing.assert_close(mine, golden, atol=3e-4, rtol=0)
        torch.testing.assert_close(
            schedule.train_local_sigma, tensors[f"{name}.train_local_sigma.{stage}"], atol=1e-6, rtol=0
        )


def test_euler_steps(schedule_case, schedule, tensors):
    for stage in range(schedule.stages):
        prefix = f"{schedule_case['name']}.step.{stage}"
        sample = tensors.get(f"{prefix}.in.sample")
        if sample is None:
            continue
        steps = sum(key.startswith(f"{prefix}.in.velocity.") for key in tensors)
        _, local = schedule.inference_points(stage, steps)
        for j in range(steps):
            sample = euler_step(sample, tensors[f"{prefix}.in.velocity.{j}"], local[j], local[j + 1])
            torch.testing.assert_close(sample, tensors[f"{prefix}.out.{j}"], atol=5e-6, rtol=1e-4)
