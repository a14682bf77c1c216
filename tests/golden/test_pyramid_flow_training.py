"""Training batches against the reference: clips, targets, timesteps, loss, prefix lengths."""

import json

import pytest
import torch
from safetensors.torch import load_file

from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.prefix_lengths import synchronised_n, units_per_stage
from components.objectives.pyramid_columns import AutoregressivePyramid, ColumnDraws
from components.schedules.pyramid_schedule import latent_pyramid
from tests.golden.dit_cases import numbered

EXACT = {"atol": 5e-6, "rtol": 1e-4}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("--golden-dir") / "pyramid_flow/training"
    facts = json.loads((folder / "training.json").read_text()) if (folder / "training.json").exists() else {}
    if "training_file" in metafunc.fixturenames:
        files = sorted(folder.glob("*.safetensors"))
        metafunc.parametrize("training_file", files, ids=[f"training/{f.name}" for f in files])
    if "prefix_case" in metafunc.fixturenames:
        table = facts.get("units_per_stage_table", [])
        metafunc.parametrize("prefix_case", table, ids=[f"training.json-{i}" for i in range(len(table))])


def test_construction(training_file):
    facts = json.loads((training_file.parent / "training.json").read_text())["cases"][training_file.stem]
    case = load_file(training_file)
    pyramid = AutoregressivePyramid(
        stage_of_column=facts["column_to_stage"],
        frames_per_unit=facts["frame_per_unit"],
        max_history_noise=facts["corrupt_ratio"],
        autoregressive=facts["autoregressive"],
    )
    latents, k = case["in.latents"], len(facts["column_to_stage"])
    units = facts["units_per_stage"] or [pyramid.num_units(latents.shape[2])] * 3
    draws = []
    for c, stage in enumerate(facts["column_to_stage"]):
        _, frames = pyramid._last_unit(latents.shape[2], units[stage])
        draws.append(
            ColumnDraws(
                noise=case["in.noise"][c::k, :, frames],
                u=case[f"in.u.{c}"],
                history_strength=case[f"in.unit_uniform.{c}"],
                history_noise=numbered(case, f"in.history_noise.{c}"),
            )
        )
    for level, mine in enumerate(latent_pyramid(latents, pyramid.schedule.stages)):
        if f"out.pyramid.{level}" in case:
            torch.testing.assert_close(mine, case[f"out.pyramid.{level}"], **EXACT)
    columns = pyramid.build(latents, units, draws)
    losses = []
    for c, column in enumerate(columns):
        golden = numbered(case, f"out.clip.{c}")
        assert [clip.shape for clip in column.clips] == [clip.shape for clip in golden]
        for mine, wanted in zip(column.clips, golden, strict=True):
            torch.testing.assert_close(mine, wanted, **EXACT)
        torch.testing.assert_close(column.target, case[f"out.target.{c}"], **EXACT)
        torch.testing.assert_close(column.local_sigma, case[f"out.local_sigma.{c}"].flatten(), atol=1e-6, rtol=0)
        torch.testing.assert_close(column.timesteps, case[f"out.timestep.{c}"].flatten(), atol=3e-4, rtol=0)
        losses.append(MotionAwareLoss(weight=0)(case[f"in.pred.{c}"], column.target, column.target, None).total)
    if "out.timestep_all" in case:
        interleaved = torch.stack([column.timesteps for column in columns], dim=1).flatten()
        torch.testing.assert_close(interleaved, case["out.timestep_all"].flatten(), atol=3e-4, rtol=0)
    torch.testing.assert_close(torch.cat(losses).mean(), case["out.loss"], rtol=1e-5, atol=0)


def test_prefix_lengths(prefix_case):
    n_max, group, rank = (prefix_case[k] for k in ("max_temporal_length", "video_sync_group", "rank"))
    for name, lengths in prefix_case.items():
        if not name.startswith("first_six_calls"):
            continue
        available = int(name.split("_")[-2]) if name.endswith("_units") else n_max
        for call, expected in enumerate(lengths, start=1):
            n = synchronised_n(rank, call, group, n_max)
            assert units_per_stage(n, n_max, stages=3, available=available) == expected
