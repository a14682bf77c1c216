"""Cross-Task Synergy: which latents are noisy, which are learnt, and that rows are what separate forwards would be."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from components.encoders.text.rows import stack_text
from components.errors import InputError
from components.objectives.cross_task import (
    AUDIO_DRIVEN,
    JOINT,
    VIDEO_DRIVEN,
    CrossTaskSynergy,
    LevelDraws,
    NoiseLevels,
    TaskDraws,
    TaskRows,
)
from components.schedules.flow_schedule import FlowSchedule
from tests.tiny_harmony import inputs, rows_of, tiny_harmony
from tests.tiny_syncphony import generator

CLIPS = 4
MANY = LevelDraws.draw(40_000, generator(0), "cpu")


def clips(num: int = CLIPS) -> tuple[torch.Tensor, torch.Tensor]:
    given_ = inputs(num)
    return given_["z_v"], given_["z_a"]


def made(tasks: CrossTaskSynergy, num: int = CLIPS, seed: int = 0, **changes) -> tuple[TaskRows, TaskDraws]:
    video, audio = clips(num)
    draws = replace(tasks.draw(video, audio, generator(seed)), **changes)
    return tasks.rows(video, audio, draws), draws


def test_noise_targets_and_masks_of_every_task():
    video, audio = clips()
    first = torch.tensor([True, False, True, False])
    lengths = torch.tensor([17, 9, 1, 17])
    tasks = CrossTaskSynergy("all")
    draws = replace(tasks.draw(video, audio, generator(0)), first_frame=first)
    rows = tasks.rows(video, audio, draws, lengths)
    assert rows.repeats == 3
    assert rows.tasks.tolist() == [JOINT] * 4 + [AUDIO_DRIVEN] * 4 + [VIDEO_DRIVEN] * 4
    sigma = tasks.video_levels(draws.video_levels)
    s = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - s) * video + s * draws.video_noise
    for row in range(12):
        clip, task = row % 4, row // 4
        frame0 = bool(first[clip]) and task != VIDEO_DRIVEN
        assert rows.first_frame[row] == frame0
        assert rows.video.timesteps[row] == (0 if task == VIDEO_DRIVEN else 1000 * sigma[clip])
        assert rows.audio.timesteps[row] == (0 if task == AUDIO_DRIVEN else 1000 * sigma[clip])
        assert torch.equal(rows.video.target[row], draws.video_noise[clip] - video[clip])
        learnt = [task != VIDEO_DRIVEN] * 4
        learnt[0] = learnt[0] and not frame0
        assert rows.video.mask[row].tolist() == learnt
        assert rows.audio.mask[row].tolist() == [task != AUDIO_DRIVEN and i < lengths[clip] for i in range(17)]
        if task == VIDEO_DRIVEN:
            assert torch.equal(rows.video.latents[row], video[clip])
        else:
            assert_close(rows.video.latents[row, :, 1:], noisy[clip, :, 1:])
            if frame0:
                assert torch.equal(rows.video.latents[row, :, 0], video[clip, :, 0]), "given frames stay exact"
        assert torch.equal(rows.audio.latents[row], audio[clip]) == (task == AUDIO_DRIVEN)


def conditions(repeats: int) -> dict:
    given_ = inputs(CLIPS)
    words = {key: stack_text(*[given_[key]] * repeats) for key in ("text_v", "text_a", "transcript")}
    voices = {"z_r": given_["z_r"].repeat(repeats, 1, 1), "ref_len": given_["ref_len"].repeat(repeats)}
    return {**words, **voices, "clock": given_["clock"]}


def test_one_forward_has_the_loss_and_gradient_of_three():
    """L_joint + lambda_v L_driven_by_audio + lambda_a L_driven_by_video, each a forward pass of its own."""
    tasks = CrossTaskSynergy("all", audio_driven_weight=0.1, video_driven_weight=0.3, audio_weight=0.7)
    rows, _ = made(tasks)
    model = tiny_harmony(trained=True)
    arguments = {
        "z_v": rows.video.latents,
        "z_a": rows.audio.latents,
        "t_v": rows.video.timesteps,
        "t_a": rows.audio.timesteps,
        **conditions(3),
    }
    loss, errors = tasks.loss(rows, *model(**arguments, first_frame=rows.first_frame))
    loss.backward()
    together = [p.grad.clone() for p in model.parameters()]

    model.zero_grad()
    separate = torch.zeros(())
    for task, (video_weight, audio_weight) in enumerate(((1.0, 0.7), (0.1, 0.0), (0.0, 0.3 * 0.7))):
        mine = list(range(task * CLIPS, (task + 1) * CLIPS))
        v_v, v_a = model(**rows_of(arguments, mine), first_frame=rows.first_frame[mine])
        for noisy, velocity, weight in ((rows.video, v_v, video_weight), (rows.audio, v_a, audio_weight)):
            for row, predicted in zip(mine, velocity, strict=True):
                wrong = (predicted - noisy.target[row])[:, noisy.mask[row]]
                if weight:
                    separate = separate + weight * wrong.square().mean() / CLIPS
    separate.backward()
    assert_close(loss, separate)
    for one, other in zip(together, [p.grad for p in model.parameters()], strict=True):
        assert_close(one, other, atol=2e-6, rtol=1e-4)
    assert errors["video"].counted.tolist() == [True] * 8 + [False] * 4
    assert errors["audio"].counted.tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_sampled_tasks_have_the_loss_of_all_tasks_in_expectation():
    """Summed over the tasks a clip may get, times their probabilities, for the same noise."""
    probabilities = (0.5, 0.3, 0.2)
    everything, sampled = CrossTaskSynergy("all"), CrossTaskSynergy("sample", probabilities)
    rows, draws = made(everything, 1)
    v_v, v_a = torch.randn_like(rows.video.latents), torch.randn_like(rows.audio.latents)
    golden, _ = everything.loss(rows, v_v, v_a)
    expected = 0.0
    for task, p in enumerate(probabilities):
        single = sampled.rows(*clips(1), replace(draws, tasks=torch.tensor([task])))
        assert single.repeats == 1
        loss, _ = sampled.loss(single, v_v[task : task + 1], v_a[task : task + 1])
        expected += p * loss
    assert_close(expected, golden)


def test_tasks_are_drawn_with_their_probabilities():
    tasks = CrossTaskSynergy("sample", (0.6, 0.3, 0.1), first_frame_probability=0.25)
    draws = tasks.draw(None, torch.zeros(20_000, 1, 1), generator(1))
    assert_close(torch.bincount(draws.tasks) / 20_000, torch.tensor([0.6, 0.3, 0.1]), atol=0.015, rtol=0)
    assert draws.first_frame.float().mean() == pytest.approx(0.25, abs=0.015)


def test_draws_depend_on_the_generator_alone():
    tasks, (video, audio) = CrossTaskSynergy(), clips()
    one, same, other = (tasks.draw(video, audio, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.video_noise, same.video_noise)
    assert torch.equal(one.audio_levels.normal, same.audio_levels.normal)
    assert not torch.equal(one.audio_noise, other.audio_noise)
    assert torch.equal(one.tasks, same.tasks)


def test_timesteps_are_shared_through_both_laws_or_independent():
    laws = {"video_levels": NoiseLevels(5.0, uniform_share=0), "audio_levels": NoiseLevels(1.0, uniform_share=0)}
    rows, draws = made(CrossTaskSynergy("all", **laws))
    assert draws.video_levels is draws.audio_levels
    assert (rows.video.sigma[:4].argsort() == rows.audio.sigma[:4].argsort()).all()
    assert not torch.equal(rows.video.sigma[:4], rows.audio.sigma[:4])
    same, _ = made(CrossTaskSynergy("all"))
    assert torch.equal(same.video.sigma[:4], same.audio.sigma[:4]), "the paper's t_v = t_a"
    apart, draws = made(CrossTaskSynergy("all", independent_timesteps=True))
    assert not torch.equal(draws.video_levels.normal, draws.audio_levels.normal)
    assert not torch.isclose(apart.video.sigma[:4], apart.audio.sigma[:4]).any()


@pytest.mark.parametrize("side", ["video", "audio"])
def test_a_modality_alone_is_plain_flow_matching(side: str):
    video, audio = clips()
    pair = (video, None) if side == "video" else (None, audio)
    tasks = CrossTaskSynergy("all", audio_weight=0.5)
    rows = tasks.rows(*pair, tasks.draw(*pair, generator(0)))
    assert rows.repeats == 1
    assert not rows.tasks.any()
    noisy = rows.video if side == "video" else rows.audio
    assert (noisy.timesteps > 0).all()
    velocities = (noisy.target + 2, None) if side == "video" else (None, noisy.target + 2)
    loss, errors = tasks.loss(rows, *velocities)
    assert loss == pytest.approx(4 * (1 if side == "video" else 0.5))
    assert list(errors) == [side]


@given(st.integers(0, 10_000), st.sampled_from(["all", "sample"]))
@settings(max_examples=30, deadline=None)
def test_the_true_velocity_costs_nothing_and_unlearnt_latents_never_count(seed: int, mode: str):
    tasks = CrossTaskSynergy(mode)
    rows, _ = made(tasks, seed=seed)
    v_v = rows.video.target + 9.0 * ~rows.video.mask[:, None, :, None, None]
    v_a = rows.audio.target + 9.0 * ~rows.audio.mask[:, None]
    loss, errors = tasks.loss(rows, v_v, v_a)
    assert loss == 0
    assert not errors["video"].error.any()
    drives = (rows.video.timesteps == 0), (rows.audio.timesteps == 0)
    assert torch.equal(drives[0], rows.tasks == VIDEO_DRIVEN)
    assert torch.equal(drives[1], rows.tasks == AUDIO_DRIVEN)


def test_one_latent_that_is_given_leaves_nothing_to_learn():
    tasks = CrossTaskSynergy(first_frame_probability=1.0)
    video = torch.randn(2, 3, 1, 2, 2)
    rows = tasks.rows(video, None, tasks.draw(video, None, generator(0)))
    loss, errors = tasks.loss(rows, torch.full_like(video, torch.pi), None)
    assert loss == 0
    assert not errors["video"].counted.any()


def test_half_precision_latents_keep_their_first_frame():
    tasks = CrossTaskSynergy("all", first_frame_probability=1.0)
    video = torch.randn(2, 3, 4, 2, 2).bfloat16()
    rows = tasks.rows(video, None, tasks.draw(video.float(), None, generator(0)))
    assert torch.equal(rows.video.latents[:, :, 0], video[:, :, 0].to(rows.video.latents.dtype))


def test_levels_are_injectable():
    tasks = CrossTaskSynergy("all")
    level = LevelDraws(torch.zeros(CLIPS), torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.zeros(CLIPS))
    rows, _ = made(tasks, video_levels=level, audio_levels=level)
    assert rows.video.sigma.tolist() == [0.25, 0.5, 0.75, 1.0] * 2 + [0.0] * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task_mode": "some"}, "task_mode is 'some'"),
        ({"probabilities": (0.5, 0.5)}, "three numbers that add up to 1"),
        ({"probabilities": (0.5, 0.5, 0.5)}, "three numbers that add up to 1"),
        ({"probabilities": (0.5, 0.0, 0.5)}, "never draws the audio_driven task, whose weight is 0.1"),
        ({"audio_driven_weight": -1.0}, "audio_driven_weight is -1.0"),
        ({"first_frame_probability": 2.0}, "between 0 and 1"),
    ],
)
def test_mistakes_are_named(wrong: dict, message: str):
    with pytest.raises(InputError, match=message):
        CrossTaskSynergy(**wrong)


def test_a_task_of_no_weight_may_never_be_drawn():
    tasks = CrossTaskSynergy("sample", (0.5, 0.0, 0.5), audio_driven_weight=0.0)
    rows, _ = made(tasks)
    assert rows.video.weight.isfinite().all()
    with pytest.raises(ValueError, match="neither video nor audio"):
        tasks.draw(None, None, None)


# --- noise levels --------------------------------------------------------------------------------------------------


@given(st.floats(0.5, 10), st.floats(-1, 1), st.floats(0.2, 2))
def test_the_median_is_the_bent_sigmoid_of_the_mean(shift: float, mean: float, deviation: float):
    law = NoiseLevels(shift, mean, deviation, uniform_share=0.0)
    levels = law(LevelDraws(torch.tensor([0.0, 1.0]), torch.ones(2), torch.ones(2)))
    for n, level in zip((0.0, 1.0), levels.tolist(), strict=True):
        u = 1 / (1 + torch.tensor(-(mean + deviation * n)).exp().item())
        assert level == pytest.approx(shift * u / (1 + (shift - 1) * u), rel=1e-4)


def test_levels_are_logit_normal_or_uniform():
    for share in (0.0, 0.3, 1.0):
        levels = NoiseLevels(1.0, uniform_share=share)(MANY)
        assert levels.min() > 0
        assert levels.max() <= 1
        uniform = MANY.choice < share
        assert torch.equal(levels[uniform], MANY.uniform[uniform])
        logits = torch.logit(levels[~uniform].double())
        if len(logits):
            assert logits.mean().abs() < 0.02
            assert logits.std() == pytest.approx(1.0, abs=0.02)
    assert NoiseLevels(1.0, uniform_share=1.0)(MANY).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_plain_levels_lie_as_the_sampler_walks_them(shift: float):
    """Uniform levels through the shift: as many in each step of the sampler's own schedule."""
    levels = NoiseLevels(shift, uniform_share=0.0, base="uniform")(MANY)
    assert torch.equal(levels, shift * MANY.uniform / (1 + (shift - 1) * MANY.uniform))
    sigmas = FlowSchedule("euler", shift).start(1000).sigmas[::100].flip(0)
    shares = torch.histogram(levels, sigmas.contiguous())[0] / len(levels)
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    again = NoiseLevels(shift, 3.0, 0.1, uniform_share=0.0, base="uniform")(MANY)
    assert torch.equal(again, levels)  # numbers of the other law


def test_no_draw_gives_level_zero():
    edge = LevelDraws(torch.tensor([-9.0, 9.0]), torch.tensor([2.0**-24, 1.0]), torch.tensor([0.0, 0.0]))
    assert (NoiseLevels()(edge) > 0).all()
    assert (NoiseLevels(uniform_share=0.0)(edge) > 0).all()
    assert (NoiseLevels(base="uniform", uniform_share=0.0)(edge) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": 0}, "shift is 0"),
        ({"deviation": -1}, "deviation"),
        ({"uniform_share": 1.5}, "between 0 and 1"),
        ({"base": "cosine"}, "base is 'cosine': give logit_normal or"),
    ],
)
def test_numbers_out_of_range_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        NoiseLevels(**settings)


@pytest.mark.parametrize("mode", ["all", "sample"])
def test_the_sound_of_a_mute_clip_is_noise_and_never_learnt(mode: str):
    video, audio = clips()
    mute = torch.tensor([False, True, False, True])
    tasks = CrossTaskSynergy(mode)
    draws = tasks.draw(video, audio, generator(0))
    rows, plain = tasks.rows(video, audio, draws, mute=mute), tasks.rows(video, audio, draws)
    of_mute = mute.repeat(rows.repeats)
    assert torch.equal(rows.audio.latents[of_mute], draws.audio_noise.repeat(rows.repeats, 1, 1)[of_mute])
    assert (rows.audio.timesteps[of_mute] == 1000).all()
    assert not rows.audio.mask[of_mute].any()
    for mine, theirs in ((rows.audio, plain.audio), (rows.video, plain.video)):
        others = ~of_mute if mine is rows.audio else slice(None)  # the video is learnt as ever
        for name in ("latents", "timesteps", "target", "mask", "weight"):
            assert torch.equal(getattr(mine, name)[others], getattr(theirs, name)[others])
    _, errors = tasks.loss(rows, torch.zeros_like(rows.video.latents), torch.zeros_like(rows.audio.latents))
    assert not errors["audio"].error[of_mute].any()
    assert not errors["audio"].counted[of_mute].any()


@pytest.mark.parametrize("mode", ["all", "sample"])
def test_the_picture_of_a_sound_alone_is_noise_and_never_learnt(mode: str):
    video, audio = clips()
    unseen = torch.tensor([True, False, True, False])
    tasks = CrossTaskSynergy(mode, first_frame_probability=1.0)
    draws = tasks.draw(video, audio, generator(0))
    rows, plain = tasks.rows(video, audio, draws, unseen=unseen), tasks.rows(video, audio, draws)
    of_unseen = unseen.repeat(rows.repeats)
    assert torch.equal(rows.video.latents[of_unseen], draws.video_noise.repeat(rows.repeats, 1, 1, 1, 1)[of_unseen])
    assert (rows.video.timesteps[of_unseen] == 1000).all()
    assert not rows.video.mask[of_unseen].any() and not rows.first_frame[of_unseen].any()
    assert torch.equal(rows.first_frame[~of_unseen], plain.first_frame[~of_unseen])
    for mine, theirs in ((rows.audio, plain.audio), (rows.video, plain.video)):
        others = ~of_unseen if mine is rows.video else slice(None)  # the sound is learnt as ever
        for name in ("latents", "timesteps", "target", "mask", "weight"):
            assert torch.equal(getattr(mine, name)[others], getattr(theirs, name)[others])
    _, errors = tasks.loss(rows, torch.zeros_like(rows.video.latents), torch.zeros_like(rows.audio.latents))
    assert not errors["video"].counted[of_unseen].any() and errors["audio"].counted.any()
