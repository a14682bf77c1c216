"""What Harmony adds to a step that is refused or skipped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from callbacks.nan_guard import NaNGuard
from components.contracts import ClipBatch
from components.errors import InputError
from components.objectives.cross_task import CrossTaskSynergy
from components.objectives.task_losses import TASKS
from tests.lightning_modules.harmony.tiny_harmony_module import clips, fit, step, tiny_module

SICK = 2  # position of the second batch


def make(position: int) -> ClipBatch:
    batch = clips(position=position, seed=position)
    if position == SICK:
        batch.audio[1] = torch.nan
    return batch


def test_task_and_noise_level_of_every_clip_are_told(tmp_path: Path):
    with pytest.raises(InputError, match="the loss is nan at step 1") as caught:
        fit(tiny_module(tasks=CrossTaskSynergy("all")), tmp_path, make, max_steps=3, callbacks=[NaNGuard()])
    told = (
        "joint: video noise 0.\\d\\d, audio noise 0.\\d\\d; audio_driven: video noise 0.\\d\\d, audio noise 0.00; video"
    )
    assert caught.match(f"clips clip2_1 \\(its audio is not finite, {told}.*clip2_0 \\({told}")


def test_what_is_told_was_drawn():
    module = tiny_module()
    drawn, loss = [], module.tasks.loss

    def recorded(rows, *velocities):
        drawn.append(rows)
        return loss(rows, *velocities)

    module.tasks.loss = recorded
    batch = replace(clips(position=6), ids=["a", "b"])
    step(module, batch)
    (rows,) = drawn
    assert module.drawn_for(batch, 0) == [
        f"{TASKS[rows.tasks[row]]}: video noise {rows.video.sigma[row]:.2f}, audio noise {rows.audio.sigma[row]:.2f}"
        for row in range(2)
    ]


def test_a_skipped_step_has_no_part_in_the_norms(tmp_path: Path):
    module = tiny_module()
    seen: list[torch.Tensor] = []
    flush = module.watch.flush

    def recorded(reduce):
        seen.append(module.watch.norms.clone())
        return flush(reduce)

    module.watch.flush = recorded
    with pytest.warns(UserWarning, match="skipped a step, 1 of at most 1"):
        fit(module, tmp_path, make, max_steps=3, callbacks=[NaNGuard(skip_steps=1)])
    assert [norms[1].tolist() for norms in seen] == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert all(norms.isfinite().all() for norms in seen)
    assert all(p.isfinite().all() for p in module.parameters())
