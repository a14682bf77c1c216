"""Units hand keys and values on: nothing changes but the work, and the memory is the one that was announced."""

import pytest
import torch

from components.backbones.syncphony.audio_windows import AudioTimeline
from components.backbones.syncphony.model import SyncphonyDiT
from components.errors import InputError
from components.samplers import pyramid_sampler
from components.samplers.pyramid_sampler import Conditions, PyramidSampler
from components.samplers.sampling_noise import ClipNoise
from components.samplers.unit_memory import GIB, UnitMemory, free_bytes
from tests.tiny_syncphony import (
    FPS,
    TEMPORAL_FACTOR,
    VARIANTS,
    BlockOutputs,
    audio_features,
    generator,
    latents,
    text_features,
    tiny_dit,
)

LATENTS, SIZE, WORDS = 7, (8, 16), 3
STEPS = (2, 1, 2)
EXACT = {"atol": 1e-4, "rtol": 1e-5}  # the same products, but a machine may cut them into other tiles


def stages(
    dit: SyncphonyDiT, sampler: PyramidSampler, clips: int = 2, from_image: bool = True, **settings: object
) -> list[torch.Tensor]:
    """Latents at the end of every stage of every unit; the prompts have padding, and those of each clip another."""
    ends: list[torch.Tensor] = []
    audio = audio_features(clips, 3.0)
    conditions = Conditions(
        text=text_features(clips, WORDS),
        negative_text=text_features(clips, words=2, seed=1),
        audio=dit.encode_audio(audio, LATENTS, FPS, TEMPORAL_FACTOR),
    )
    with torch.no_grad():
        sampler.sample(
            dit,
            conditions,
            (clips, 4, LATENTS, *SIZE),
            ClipNoise([generator(i) for i in range(clips)]),
            image_latent=latents(clips, 1) if from_image else None,
            on_stage=ends,
            **settings,
        )
    return ends


def both_ways(dit: SyncphonyDiT, sampler: PyramidSampler, **settings: object) -> None:
    remembered = stages(dit, sampler, **settings)
    sampler.memory_gib = 0.0
    anew = stages(dit, sampler, **settings)
    for mine, wanted in zip(remembered, anew, strict=True):
        torch.testing.assert_close(mine, wanted, **EXACT)
    assert max(end.abs().max() for end in anew) > 0.5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("text_scale", "sync_scale"), [(4.0, 2.0), (1.0, 2.0), (4.0, 0.0)])
def test_what_is_handed_on_is_what_would_be_computed(variant: str, text_scale: float, sync_scale: float):
    both_ways(
        tiny_dit(variant, 1, timeline=AudioTimeline(reach_latents=1, rope="backbone")),
        PyramidSampler(video_steps=STEPS, video_text_scale=text_scale, sync_scale=sync_scale),
    )


@pytest.mark.parametrize("settings", [{"from_image": False}, {"off_sync": True}, {"clips": 1}])
def test_however_a_run_begins_and_is_guided(settings: dict):
    both_ways(tiny_dit(), PyramidSampler(video_steps=STEPS, image_steps=(1, 2, 1)), **settings)


def test_units_of_two_frames():
    both_ways(tiny_dit(first_late_block=0), PyramidSampler(video_steps=STEPS, frames_per_unit=2))


def test_rounded_timesteps_and_a_coarser_frozen_part():
    both_ways(tiny_dit(bfloat16_timesteps=True), PyramidSampler(video_steps=STEPS))


def computed_tokens(dit: SyncphonyDiT, sampler: PyramidSampler) -> list[int]:
    """Tokens in the first block, call by call."""
    with BlockOutputs(dit.backbone) as states:
        stages(dit, sampler)
    return [state.tokens.shape[1] for state in states[0]]


def test_a_unit_computes_what_is_new_at_the_lowest_resolution_and_what_stands_above_it():
    """Latent frames have 2, 8 and 32 tokens; text is known from when frame 0 is at the lowest resolution."""
    sampler = PyramidSampler(video_steps=(1, 1, 1))
    found = computed_tokens(tiny_dit(), sampler)
    wanted = []
    for u in range(1, LATENTS):
        wanted.append((WORDS if u == 1 else 0) + 2 + 2)
        wanted.append((WORDS if u <= 2 else 0) + (2 if u >= 2 else 0) + 8 + 8)
        wanted.append((WORDS if u <= 3 else 0) + (2 if u >= 3 else 0) + (8 if u >= 2 else 0) + 32 + 32)
    assert found == wanted
    sampler.memory_gib = 0.0
    plain = computed_tokens(tiny_dit(), sampler)
    assert plain[-3:] == [WORDS + 2 * LATENTS, WORDS + 2 * (LATENTS - 2) + 8 + 8, WORDS + 2 * (LATENTS - 3) + 8 + 64]


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.fixture
def memories(monkeypatch: pytest.MonkeyPatch) -> list[UnitMemory]:
    """Those that samplers make."""
    made: list[UnitMemory] = []

    class Recorded(UnitMemory):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(pyramid_sampler, "UnitMemory", Recorded)
    return made


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frozen_dtype", ["float32", "bfloat16"])
def test_it_takes_the_memory_that_was_planned(memories: list[UnitMemory], autocast: bool, frozen_dtype: str):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        stages(tiny_dit(frozen_dtype=frozen_dtype), PyramidSampler(video_steps=STEPS))
    (memory,) = memories
    # of the longest history: 5, 4, 3 frames of 2 tokens at the lowest resolution
    tokens = 2 * (WORDS + 10) + 1 * (WORDS + 8) + 2 * (WORDS + 6)
    values = 2 if autocast else 4
    if autocast or frozen_dtype == "float32":
        # two early blocks of 4 rows, three late ones of 6; a CPU keeps rotated keys in float32
        assert memory.planned_bytes == tokens * (2 * 4 + 3 * 6) * 32 * (4 + values)
    assert memory.held_bytes == memory.planned_bytes


def test_steps_for_which_it_does_not_suffice_compute_everything(memories: list[UnitMemory]):
    dit = tiny_dit()
    everything = stages(dit, PyramidSampler(video_steps=STEPS))
    whole = memories[-1].planned_bytes
    half = stages(dit, PyramidSampler(video_steps=STEPS, memory_gib=0.5 * whole / GIB))
    assert 0.1 * whole < memories[-1].planned_bytes <= 0.5 * whole
    assert memories[-1].held_bytes == memories[-1].planned_bytes
    for mine, wanted in zip(half, everything, strict=True):
        torch.testing.assert_close(mine, wanted, **EXACT)


def test_without_the_causal_rule_nothing_is_handed_on(memories: list[UnitMemory]):
    dit = tiny_dit()
    dit.backbone.temporal_causal = False
    stages(dit, PyramidSampler(video_steps=STEPS))
    assert memories[-1].planned_bytes == memories[-1].held_bytes == 0


def test_a_negative_bound_is_refused():
    with pytest.raises(InputError, match="memory_gib is -1"):
        PyramidSampler(memory_gib=-1)


def test_memory_without_a_gpu_is_bounded_by_the_setting_alone():
    assert free_bytes(torch.device("cpu")) == float("inf")


# --- the last evaluation of a stage ----------------------------------------------------------------------------------


def test_the_last_step_of_a_stage_may_be_merged_into_the_one_before():
    dit, calls = tiny_dit(), []
    sampler = PyramidSampler(video_steps=(4, 1, 3), merge_last_step=True)
    merged = stages(dit, sampler, progress=calls.append)
    assert sum(calls) == sampler.num_steps(LATENTS, from_image=True) == (LATENTS - 1) * (3 + 1 + 2)
    released = stages(dit, PyramidSampler(video_steps=(4, 1, 3)))
    gaps = [(a - b).norm() / b.norm() for a, b in zip(merged, released, strict=True)]
    assert 1e-6 < gaps[0] < 1e-2  # a thousandth of the stage's path

    timesteps, local = sampler._points(0, 4)
    exact = sampler.schedule.inference_points(0, 4)
    assert timesteps == exact[0][:3] and local == [*exact[1][:3], 0.0]


def test_a_single_step_is_never_left_out():
    once = {"video_steps": (1, 1, 1)}
    dit = tiny_dit()
    for mine, wanted in zip(
        stages(dit, PyramidSampler(**once, merge_last_step=True)), stages(dit, PyramidSampler(**once)), strict=True
    ):
        assert torch.equal(mine, wanted)
