"""Sampling: what is random, what is shared, how many rows each block runs."""

from dataclasses import replace

import pytest
import torch

from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import TextFeatures
from components.encoders.text.rows import stack_text
from components.errors import InputError
from components.guidance.guidance import AudioSyncGuidance, TextGuidance, guided_velocity
from components.samplers.pyramid_sampler import Conditions, PyramidSampler, evaluate_branches
from components.samplers.sampling_noise import ClipNoise
from components.schedules.pyramid_schedule import PyramidSchedule
from tests.tiny_syncphony import (
    FPS,
    NUM_BLOCKS,
    TEMPORAL_FACTOR,
    VARIANTS,
    BlockOutputs,
    audio_features,
    generator,
    latents,
    text_features,
    tiny_dit,
)

SEEDS = (11, 12, 13)
LATENTS, SIZE = 4, (8, 16)
CLOSE = {"atol": 1e-3, "rtol": 1e-3}


def conditions(dit: SyncphonyDiT, index: list[int]) -> Conditions:
    """Those of the clips ``index`` out of three."""
    audio = audio_features(3, 2.0)
    return Conditions(
        text=text_features(3).rows(torch.tensor(index)),
        negative_text=text_features(3, words=2, seed=1).rows(torch.tensor(index)),
        audio=dit.encode_audio(audio.rows(torch.tensor(index)), LATENTS, FPS, TEMPORAL_FACTOR),
    )


@torch.no_grad()
def sampled(
    dit: SyncphonyDiT, index: list[int], sampler: PyramidSampler | None = None, **settings: object
) -> torch.Tensor:
    sampler = sampler or PyramidSampler(video_steps=(2, 1, 2))
    return sampler.sample(
        dit,
        conditions(dit, index),
        (len(index), 4, LATENTS, *SIZE),
        ClipNoise([generator(SEEDS[i]) for i in index]),
        image_latent=latents(3, 1)[index],
        **settings,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_comes_out_the_same_in_any_batch(variant: str):
    dit = tiny_dit(variant)
    three, shuffled = sampled(dit, [0, 1, 2]), sampled(dit, [2, 0, 1])
    torch.testing.assert_close(shuffled, three[[2, 0, 1]], **CLOSE)
    for i in range(3):
        torch.testing.assert_close(sampled(dit, [i]), three[i : i + 1], **CLOSE)
    assert (three[0] - three[1]).abs().max() > 0.1


def test_the_callers_generators_decide_everything():
    dit = tiny_dit()
    before = torch.random.get_rng_state()
    first = sampled(dit, [0])
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(sampled(dit, [0]), first)


def test_the_image_is_kept_exactly_and_the_rest_is_finite():
    out = sampled(tiny_dit(), [0, 1, 2])
    assert out.shape == (3, 4, LATENTS, *SIZE)
    assert torch.equal(out[:, :, :1], latents(3, 1))
    assert out.isfinite().all() and out[:, :, 1:].std() > 0.1


@pytest.mark.parametrize("from_image", [True, False])
def test_progress_counts_the_announced_steps(from_image: bool):
    dit = tiny_dit()
    sampler = PyramidSampler(video_steps=(2, 1, 3), image_steps=(1, 2, 1))
    calls: list[int] = []
    ends: list[torch.Tensor] = []
    out = sampler.sample(
        dit,
        conditions(dit, [0]),
        (1, 4, LATENTS, *SIZE),
        ClipNoise([generator(0)]),
        image_latent=latents(1, 1) if from_image else None,
        progress=calls.append,
        on_stage=ends,
    )
    assert sum(calls) == len(calls) == sampler.num_steps(LATENTS, from_image) == (18 if from_image else 22)
    units = 3 if from_image else 4
    assert [tuple(end.shape[-2:]) for end in ends] == [(2, 4), (4, 8), (8, 16)] * units
    assert torch.equal(out[:, :, -1:], ends[-1]) and out.shape[2] == LATENTS


def test_the_variants_differ_once_the_audio_layers_are_not_zero():
    dit = tiny_dit()
    guided, w0, off = sampled(dit, [0]), sampled(dit, [0], sync_scale=0.0), sampled(dit, [0], off_sync=True)
    for a, b in ((guided, w0), (guided, off), (w0, off)):
        assert (a - b).abs()[:, :, 1:].max() > 1e-2
    assert torch.equal(sampled(dit, [0], PyramidSampler(video_steps=(2, 1, 2), sync_scale=0.0)), w0)


def test_with_fresh_audio_layers_sound_does_not_matter():
    dit = tiny_dit(random_audio=False)
    off = sampled(dit, [0], off_sync=True)
    assert torch.equal(sampled(dit, [0], sync_scale=0.0), off)
    torch.testing.assert_close(sampled(dit, [0]), off, **CLOSE)


def test_without_sound_in_the_conditions_it_runs_off_sync():
    dit = tiny_dit()
    silent = replace(conditions(dit, [0]), audio=None)
    noise, image = ClipNoise([generator(SEEDS[0])]), latents(3, 1)[:1]
    out = PyramidSampler(video_steps=(2, 1, 2)).sample(dit, silent, (1, 4, LATENTS, *SIZE), noise, image)
    assert torch.equal(out, sampled(dit, [0], off_sync=True))


def test_a_later_frames_sound_does_not_reach_an_earlier_frame():
    dit = tiny_dit()
    sampler = PyramidSampler(video_steps=(2, 1, 2))
    audio = audio_features(1, 2.0)
    other = audio.tokens.clone()
    other[:, 19:35] = torch.randn(1, 16, other.shape[2], generator=generator(0))  # latent 2's own span
    results = []
    for tokens in (audio.tokens, other):
        there = replace(
            conditions(dit, [0]), audio=dit.encode_audio(replace(audio, tokens=tokens), LATENTS, FPS, TEMPORAL_FACTOR)
        )
        noise, image = ClipNoise([generator(0)]), latents(1, 1)
        results.append(sampler.sample(dit, there, (1, 4, LATENTS, *SIZE), noise, image))
    assert torch.equal(results[0][:, :, :2], results[1][:, :, :2])
    assert all((results[0] - results[1])[:, :, frame].abs().max() > 1e-3 for frame in (2, 3))


def test_units_of_several_frames():
    sampler = PyramidSampler(video_steps=(1, 1, 1), frames_per_unit=2)
    assert sampler.num_steps(LATENTS, from_image=True) == 2 * 3
    out = sampled(tiny_dit(), [0], sampler)
    assert out.shape[2] == LATENTS and out.isfinite().all()


def test_a_single_stage_is_plain_sampling():
    sampler = PyramidSampler(PyramidSchedule(1), video_steps=(3,), image_steps=(3,))
    assert sampled(tiny_dit(), [0], sampler).isfinite().all()


# --- branches ----------------------------------------------------------------------------------------------------


def history_and_current(rows: int) -> list[torch.Tensor]:
    return [latents(rows, 2, size=(4, 8)), latents(rows, 1, seed=1), latents(rows, 1, seed=2)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("negative", "off_sync_too", "early", "late"),
    [(True, True, 6, 9), (True, False, 6, 6), (False, True, 3, 6), (False, False, 3, 3)],
)
@torch.no_grad()
def test_early_blocks_run_no_row_twice(variant: str, negative: bool, off_sync_too: bool, early: int, late: int):
    dit, first_late = tiny_dit(variant, 1), 1
    with BlockOutputs(dit.backbone) as states:
        evaluate_branches(dit, history_and_current(3), 400.0, conditions(dit, [0, 1, 2]), negative, off_sync_too)
    rows = [[state.tokens.shape[0] for state in recorded] for recorded in states]
    assert rows == [[early]] * first_late + [[late]] * (NUM_BLOCKS[variant] - first_late)


@pytest.mark.parametrize(
    ("text_scale", "sync_scale", "early", "late"),
    [(4.0, 2.0, 2, 3), (4.0, 0.0, 2, 2), (1.0, 2.0, 1, 2), (1.0, 0.0, 1, 1)],
)
def test_guidance_that_is_off_costs_nothing(text_scale: float, sync_scale: float, early: int, late: int):
    """Rows per clip in every step of a whole run."""
    dit = tiny_dit("miniflux", 2)
    sampler = PyramidSampler(video_steps=(1, 2, 1), video_text_scale=text_scale, sync_scale=sync_scale)
    with BlockOutputs(dit.backbone) as states:
        sampled(dit, [0, 1], sampler)
    steps = sampler.num_steps(LATENTS, from_image=True)
    for i, recorded in enumerate(states):
        assert [state.tokens.shape[0] for state in recorded] == [2 * (early if i < 2 else late)] * steps


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_branches_equal_three_separate_calls(variant: str):
    dit = tiny_dit(variant)
    clips, there = history_and_current(3), conditions(dit, [0, 1, 2])
    assert there.negative_text is not None
    together = evaluate_branches(dit, clips, 400.0, there, negative=True, off_sync_too=True)
    positive = evaluate_branches(dit, clips, 400.0, there, negative=False, off_sync_too=False)
    swapped = replace(there, text=there.negative_text)
    negative = evaluate_branches(dit, clips, 400.0, swapped, negative=False, off_sync_too=False)
    off = evaluate_branches(dit, clips, 400.0, there, negative=False, off_sync_too=False, off_sync=True)
    assert positive.negative is None and positive.off_sync is None
    close = {"atol": 2e-5, "rtol": 1e-4}
    for mine, alone in ((together.positive, positive), (together.negative, negative), (together.off_sync, off)):
        torch.testing.assert_close(mine, alone.positive, **close)
    assert (together.positive - together.negative).abs().max() > 1e-2
    assert (together.positive - together.off_sync).abs().max() > 1e-2


@torch.no_grad()
def test_off_sync_runs_every_branch_without_sound():
    dit = tiny_dit()
    clips, there = history_and_current(2), conditions(dit, [0, 1])
    off = evaluate_branches(dit, clips, 400.0, there, negative=True, off_sync_too=False, off_sync=True)
    silent = evaluate_branches(dit, clips, 400.0, replace(there, audio=None), True, False, off_sync=True)
    assert torch.equal(off.positive, silent.positive)
    assert off.negative is not None and silent.negative is not None and torch.equal(off.negative, silent.negative)


def test_a_sampling_step_follows_the_guided_velocity():
    """One stage, one step: x - v with v composed by hand from separate calls."""
    dit = tiny_dit()
    sampler = PyramidSampler(
        PyramidSchedule(1), video_steps=(1,), image_steps=(1,), video_text_scale=3.0, sync_scale=1.5
    )
    there, image = conditions(dit, [0]), latents(3, 1)[:1]
    out = sampler.sample(dit, there, (1, 4, 2, *SIZE), ClipNoise([generator(4)]), image)
    x = ClipNoise([generator(4)]).initial((1, 4, 2, *SIZE))[:, :, :1]
    branches = evaluate_branches(dit, [image, x], 1000.0, there, negative=True, off_sync_too=True)
    expected = x - guided_velocity(branches, TextGuidance(3.0), AudioSyncGuidance(1.5))
    torch.testing.assert_close(out[:, :, 1:], expected.detach(), atol=1e-5, rtol=1e-5)


def test_stacked_text_is_padded_with_masked_tokens():
    long, short = text_features(2, words=5), text_features(2, words=2, padded=False)
    stacked = stack_text(long, short)
    assert stacked.tokens.shape[:2] == stacked.mask.shape == (4, 5)
    assert torch.equal(stacked.tokens[:2], long.tokens) and torch.equal(stacked.tokens[2:, :2], short.tokens)
    assert stacked.mask[2:].tolist() == [[True, True, False, False, False]] * 2
    assert stacked.pooled is not None and stacked.pooled.shape[0] == 4
    assert stack_text(replace(long, pooled=None), replace(short, pooled=None)).pooled is None


def test_texts_are_put_together_and_read_once(monkeypatch: pytest.MonkeyPatch):
    """Not in every step: of texts whose lengths nobody told, that would wait for the device as often."""
    dit, stacked = tiny_dit(), []

    def noted(*texts: TextFeatures) -> TextFeatures:
        stacked.append(stack_text(*texts))
        return stacked[-1]

    monkeypatch.setattr("components.samplers.pyramid_sampler.stack_text", noted)
    sampled(dit, [0, 1], PyramidSampler(video_steps=(2, 1, 2), video_text_scale=3.0))
    assert len(stacked) == 1 and stacked[0].known_spans is not None


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"video_steps": (10, 10)}, {"video_steps": (1, 0, 1)}, {"image_steps": (1,)}])
def test_steps_that_do_not_fit_the_stages_are_named(settings: dict):
    with pytest.raises(InputError, match=r"_steps is .*; give a number of steps, at least 1, for each of the 3 stages"):
        PyramidSampler(**settings)


def test_text_guidance_needs_a_negative_prompt():
    dit = tiny_dit()
    with pytest.raises(ValueError, match="no negative prompt"):
        evaluate_branches(
            dit, history_and_current(1), 1.0, replace(conditions(dit, [0]), negative_text=None), True, False
        )
