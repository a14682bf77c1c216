"""The autoregressive training batch: history, corruption, targets, and the randomness it is built from."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.objectives.pyramid_columns import AutoregressivePyramid, TrainingColumn, history_clips, unit_starts
from components.schedules.pyramid_schedule import PyramidSchedule, downsample_mean, latent_pyramid, upsample_nearest
from tests.tiny_syncphony import generator, latents


def frame_numbers(num_latents: int, stages: int) -> list[torch.Tensor]:
    """A pyramid whose every value is the number of its latent frame."""
    size = 2 ** (stages - 1)
    frames = torch.arange(float(num_latents)).reshape(1, 1, -1, 1, 1).expand(1, 1, -1, size, size)
    return latent_pyramid(frames.contiguous(), stages)


@settings(deadline=None)
@given(stages=st.integers(1, 4), num_latents=st.integers(1, 20), frames_per_unit=st.integers(1, 4), data=st.data())
def test_history_is_every_earlier_frame_once_and_coarser_with_age(
    stages: int, num_latents: int, frames_per_unit: int, data: st.DataObject
):
    starts = unit_starts(num_latents, frames_per_unit)
    unit = data.draw(st.integers(0, len(starts) - 1))
    stage = data.draw(st.integers(0, stages - 1))
    clips = history_clips(frame_numbers(num_latents, stages), stage, unit, frames_per_unit)
    frames = [int(clip[0, 0, t, 0, 0]) for clip in clips for t in range(clip.shape[2])]
    assert frames == list(range(starts[unit]))
    levels = [clip.shape[-1].bit_length() - 1 for clip in clips]
    assert levels == sorted(levels)  # oldest first: never finer than what follows
    if unit:
        assert levels[-1] == stage  # the newest unit stands at the stage's own resolution
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        assert all(a < b for a, b in itertools.pairwise(levels) if b > 0)  # one unit per finer level
        assert sum(level == 0 for level in levels) <= (2 if stage == 0 else 1)


def test_history_of_the_specifications_example():
    """Unit 5 at stage 2: frames 0 to 2 at level 0, 3 at level 1, 4 at level 2."""
    clips = history_clips(frame_numbers(6, 3), 2, 5, 1)
    assert [(clip.shape[-1], clip[0, 0, :, 0, 0].tolist()) for clip in clips] == [(1, [0, 1, 2]), (2, [3]), (4, [4])]


@given(num_latents=st.integers(1, 40), frames_per_unit=st.integers(1, 9))
def test_units_are_the_image_and_then_equal_runs(num_latents: int, frames_per_unit: int):
    starts = unit_starts(num_latents, frames_per_unit)
    assert starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < num_latents
    assert starts[1:] == [1 + frames_per_unit * k for k in range(len(starts) - 1)]
    assert AutoregressivePyramid(frames_per_unit=frames_per_unit).num_units(num_latents) == len(starts)
    assert num_latents - starts[-1] <= (frames_per_unit if len(starts) > 1 else 1)


def built(
    pyramid: AutoregressivePyramid, clips: torch.Tensor, units: list[int], **changes: float
) -> list[TrainingColumn]:
    """Columns whose draws are partly set to fixed numbers."""
    draws = pyramid.draw(clips, units, generator(7))
    draws = [
        replace(d, **{name: torch.full_like(getattr(d, name), value) for name, value in changes.items()}) for d in draws
    ]
    return pyramid.build(clips, units, draws)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.sampled_from([4, 8]),
    num_latents=st.integers(2, 6),
    frames_per_unit=st.integers(1, 3),
    data=st.data(),
)
def test_columns_hold_what_they_say(batch: int, num_latents: int, frames_per_unit: int, data: st.DataObject):
    pyramid = AutoregressivePyramid(frames_per_unit=frames_per_unit)
    count = pyramid.num_units(num_latents)
    units = [data.draw(st.integers(1, count)) for _ in range(3)]
    clips = latents(batch, num_latents)
    starts = [*unit_starts(num_latents, frames_per_unit), num_latents]
    columns = built(pyramid, clips, units)
    assert [column.stage for column in columns] == [0, 1, 1, 2]
    assert sorted(row for column in columns for row in range(batch)[column.rows]) == list(range(batch))
    for c, column in enumerate(columns):
        assert list(range(batch)[column.rows]) == list(range(c, batch, 4))
        unit = units[column.stage] - 1
        assert column.first_frame == starts[unit]
        assert column.target.shape[2] == starts[unit + 1] - starts[unit]
        assert column.clips[-1].shape == column.target.shape
        assert sum(clip.shape[2] for clip in column.clips[:-1]) == column.first_frame
        assert ((column.local_sigma > 0) & (column.local_sigma <= 1)).all()
        assert ((column.timesteps > 0) & (column.timesteps <= 1000)).all()


def test_the_noisy_clip_lies_on_the_straight_path_of_its_stage():
    """At u = 0 it is the start; the target carries it from start to end; both share one noise."""
    pyramid, clips, schedule = AutoregressivePyramid(), latents(4), PyramidSchedule()
    units = [4, 3, 5]
    levels = latent_pyramid(clips, 3)
    at_start, half_way = built(pyramid, clips, units, u=0.0), built(pyramid, clips, units, u=0.5)
    for start, middle in zip(at_start, half_way, strict=True):
        assert torch.equal(start.target, middle.target)
        end = start.clips[-1] - start.target
        torch.testing.assert_close(middle.clips[-1], 0.5 * start.clips[-1] + 0.5 * end, atol=1e-5, rtol=1e-5)
        stage, frame = start.stage, start.first_frame
        clean = levels[stage][start.rows, :, frame : frame + 1]
        e = schedule.end_sigma[stage]
        if stage == 2:
            torch.testing.assert_close(end, clean, atol=1e-5, rtol=1e-5)
            continue
        noise = (end - (1 - e) * clean) / e  # the noise that the end implies is the one in the start
        s = schedule.start_sigma[stage]
        below = upsample_nearest(downsample_mean(clean)) if stage else torch.zeros_like(clean)
        torch.testing.assert_close(start.clips[-1], s * noise + (1 - s) * below, atol=1e-4, rtol=1e-4)


def test_history_is_clean_at_strength_zero_and_has_a_third_of_noise_at_one():
    pyramid, clips = AutoregressivePyramid(), latents(4)
    units = [5, 4, 4]
    levels = latent_pyramid(clips, 3)
    clean, worst = (
        built(pyramid, clips, units, history_strength=0.0),
        built(pyramid, clips, units, history_strength=1.0),
    )
    noise = []
    for without, with_noise in zip(clean, worst, strict=True):
        wanted = history_clips([level[without.rows] for level in levels], without.stage, units[without.stage] - 1, 1)
        assert all(torch.equal(a, b) for a, b in zip(without.clips[:-1], wanted, strict=True))
        noise += [(b - a * 2 / 3) * 3 for a, b in zip(wanted, with_noise.clips[:-1], strict=True)]
        assert torch.equal(without.clips[-1], with_noise.clips[-1])
    everything = torch.cat([n.flatten() for n in noise])
    assert float(everything.std()) == pytest.approx(1.0, abs=0.08) and abs(float(everything.mean())) < 0.08


def test_each_history_clip_gets_its_own_noise():
    pyramid = AutoregressivePyramid(max_history_noise=1.0)
    clips = torch.zeros(4, 4, 5, 8, 16)
    for column in built(pyramid, clips, [5, 5, 5], history_strength=1.0):
        flat = [clip.flatten()[:16] for clip in column.clips[:-1]]
        assert all(not torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i])


def test_draws_depend_on_the_generator_alone():
    pyramid, clips = AutoregressivePyramid(), latents(4)
    before = torch.random.get_rng_state()
    first, second = (pyramid.build(clips, [3, 3, 3], pyramid.draw(clips, [3, 3, 3], generator(1))) for _ in range(2))
    other = pyramid.build(clips, [3, 3, 3], pyramid.draw(clips, [3, 3, 3], generator(2)))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a.clips[-1], b.clips[-1]) and torch.equal(a.target, b.target)
        assert not torch.equal(a.target, c.target)


def test_a_column_depends_on_its_own_clips_and_no_later_frame():
    pyramid, clips = AutoregressivePyramid(), latents(4)
    units = [3, 3, 3]
    draws = pyramid.draw(clips, units, generator(0))
    before = pyramid.build(clips, units, draws)
    clips[:, :, 3:] = 99.0  # behind every prefix
    clips[1] = -99.0  # row of column 1
    for c, (a, b) in enumerate(zip(before, pyramid.build(clips, units, draws), strict=True)):
        same = all(torch.equal(x, y) for x, y in zip([*a.clips, a.target], [*b.clips, b.target], strict=True))
        assert same is (c != 1)


def test_clips_of_a_small_batch_go_where_their_position_says():
    pyramid, clips = AutoregressivePyramid(), latents(3)
    columns = pyramid.build(clips, [2, 2, 2], pyramid.draw(clips, [2, 2, 2], generator(0), 6), 6)
    # positions 6, 7, 8 are in columns 2, 3, 0 of 0, 1, 1, 2
    assert [(column.stage, [*range(3)[column.rows]]) for column in columns] == [(0, [2]), (1, [0]), (2, [1])]
    four = latents(4)
    whole, placed = (
        pyramid.build(four, [2, 2, 2], pyramid.draw(four, [2, 2, 2], generator(0), position), position)
        for position in (None, 8)
    )
    for one, other in zip(whole, placed, strict=True):
        assert torch.equal(one.target, other.target) and one.rows == other.rows


def test_whole_clips_without_history():
    pyramid = AutoregressivePyramid(autoregressive=False)
    for column in built(pyramid, latents(4), [1, 1, 1]):
        assert len(column.clips) == 1 and column.first_frame == 0 and column.target.shape[2] == 5


def test_impossible_batches_are_named():
    pyramid, clips = AutoregressivePyramid(), latents(4)
    with pytest.raises(ValueError, match="batch of 3 clips is not a multiple of 4 columns"):
        pyramid.build(clips[:3], [1, 1, 1], pyramid.draw(clips, [1, 1, 1], None))
    for units in (0, 6):
        with pytest.raises(ValueError, match=f"prefix of {units} units does not fit a clip of 5 units"):
            pyramid.draw(clips, [1, 1, units], None)
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        AutoregressivePyramid(stage_of_column=(0, 3))


@settings(deadline=None, max_examples=25)
@given(batch=st.sampled_from([4, 8]), frames_per_unit=st.integers(1, 3), data=st.data())
def test_nothing_behind_the_prefixes_is_read(batch: int, frames_per_unit: int, data: st.DataObject):
    pyramid, clips = AutoregressivePyramid(frames_per_unit=frames_per_unit), latents(batch, 6)
    units = [data.draw(st.integers(1, pyramid.num_units(6))) for _ in range(3)]
    position = data.draw(st.none() | st.integers(0, 9))
    draws = pyramid.draw(clips, units, generator(0), position)
    whole = pyramid.build(clips, units, draws, position)
    cut = clips.clone()
    for rows, length in pyramid.prefixes(batch, 6, units, position):
        cut[rows, :, length:] = torch.nan
    for a, b in zip(whole, pyramid.build(cut, units, draws, position), strict=True):
        assert torch.equal(a.target, b.target)
        assert all(torch.equal(x, y) for x, y in zip(a.clips, b.clips, strict=True))
