"""An end to runs in which a modality idles."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.contracts import ClipBatch
from components.errors import InputError
from components.objectives.cross_task import CrossTaskSynergy
from tests.lightning_modules.harmony.tiny_harmony_module import (
    clips,
    fit,
    tiny_module,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_silent_and_motionless_data_end_the_run(tmp_path: Path):
    def silent(position: int) -> ClipBatch:
        return replace(clips(position=position), audio=torch.zeros(2, 6000))

    def still(position: int) -> ClipBatch:
        batch = clips(position=position)
        return replace(batch, video=batch.video[:, :1].expand(-1, 9, -1, -1, -1))

    with pytest.raises(InputError, match="audio is trained, but no clip of the last 2 steps carried sound"):
        fit(tiny_module(patience=2), tmp_path, silent, max_steps=9)
    with pytest.raises(InputError, match="video is trained, but no clip of the last 3 steps carried motion"):
        fit(tiny_module(patience=3), tmp_path, still, max_steps=9)
    run = fit(tiny_module(stage="audio", patience=2), tmp_path, still, max_steps=3)
    assert run.global_step == 3, "a stage that trains no video needs no motion"


def test_a_part_without_gradient_ends_the_run(tmp_path: Path):
    tasks = CrossTaskSynergy("all", audio_weight=0.0)
    module = tiny_module(stage="audio", patience=2, tasks=tasks)
    with pytest.raises(InputError, match="the audio part of the transformer is trained, but had no gradient"):
        fit(module, tmp_path, max_steps=9)
