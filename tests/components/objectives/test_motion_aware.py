"""The motion-aware loss on hand-computed numbers, and which frames it looks at."""

import pytest
import torch

from components.errors import InputError
from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.pyramid_columns import AutoregressivePyramid, TrainingColumn
from components.schedules.pyramid_schedule import latent_pyramid
from tests.tiny_syncphony import generator, latents, training_columns


def row(*values: float) -> torch.Tensor:
    """One clip of one channel, one frame, 1 x n latent pixels."""
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def test_hand_computed_numbers():
    """Errors 1, -2, 0, 3 weighted by squared motions 0, 4, 9, 0.25."""
    prediction, target = row(1, 1, 5, 4), row(0, 3, 5, 1)
    clean, previous = row(2, 3, 0, 1), row(2, 1, 3, 0.5)
    terms = MotionAwareLoss(weight=0.5)(prediction, target, clean, previous)
    assert terms.base.tolist() == [(1 + 4 + 0 + 9) / 4]
    assert terms.motion.tolist() == [(0 + 4 * 4 + 0 + 9 * 0.25) / 4]
    assert terms.total.tolist() == [3.5 + 0.5 * 4.5625]


def test_rows_are_judged_one_by_one():
    torch.manual_seed(0)
    prediction, target, clean, previous = torch.randn(4, 3, 2, 1, 4, 4)
    together = MotionAwareLoss()(prediction, target, clean, previous)
    assert together.total.shape == (3,)
    for i in range(3):
        alone = MotionAwareLoss()(*(x[i : i + 1] for x in (prediction, target, clean, previous)))
        torch.testing.assert_close(alone.total, together.total[i : i + 1])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 7.0])
def test_lambda_scales_the_motion_part_only(weight: float):
    torch.manual_seed(1)
    prediction, target, clean, previous = torch.randn(4, 2, 3, 1, 4, 4)
    one, terms = (
        MotionAwareLoss(1.0)(prediction, target, clean, previous),
        MotionAwareLoss(weight)(prediction, target, clean, previous),
    )
    assert torch.equal(terms.base, one.base) and torch.equal(terms.motion, one.motion)
    torch.testing.assert_close(terms.total, one.base + weight * one.motion)


def test_without_motion_only_the_base_is_left():
    torch.manual_seed(2)
    prediction, target, clean = torch.randn(3, 2, 3, 1, 4, 4)
    terms = MotionAwareLoss(5.0)(prediction, target, clean, clean.clone())
    assert torch.equal(terms.total, terms.base) and torch.equal(terms.motion, torch.zeros(2))


def test_the_image_has_no_motion_term():
    torch.manual_seed(3)
    prediction, target, clean = torch.randn(3, 2, 3, 1, 4, 4)
    terms = MotionAwareLoss(5.0)(prediction, target, clean, None)
    assert torch.equal(terms.total, terms.base) and torch.equal(terms.motion, torch.zeros(2))


def test_gradient_is_the_weighted_errors():
    torch.manual_seed(4)
    prediction, target, clean, previous = torch.randn(4, 1, 2, 1, 2, 2)
    prediction.requires_grad_()
    MotionAwareLoss(2.0)(prediction, target, clean, previous).total.sum().backward()
    expected = 2 * (prediction - target) * (1 + 2.0 * (clean - previous) ** 2) / 8
    torch.testing.assert_close(prediction.grad, expected.detach())


def test_bfloat16_predictions_are_judged_in_float32():
    terms = MotionAwareLoss()(row(1.0).bfloat16(), row(0.9), row(1.0), row(0.0))
    assert terms.total.dtype == torch.float32
    assert float(terms.base) == pytest.approx(0.01, rel=1e-3)


def answers(columns: list[TrainingColumn]) -> list[torch.Tensor]:
    g = generator(5)
    return [torch.randn(column.target.shape, generator=g) for column in columns]


@pytest.mark.parametrize("units", [(2, 2, 2), (5, 3, 4), (1, 2, 1)])
@pytest.mark.parametrize("first_motion", [1, 2, 3])
def test_over_columns_takes_the_predicted_frame_and_the_one_before_it(units: tuple[int, int, int], first_motion: int):
    """Other frames and other rows of the clean latents do not matter; these two do, at the stage's resolution."""
    clips = latents(8)
    columns = training_columns(clips, units)
    velocities = answers(columns)
    loss = MotionAwareLoss(first_motion_latent=first_motion)
    terms = loss.over_columns(columns, velocities, clips, stages=3)
    levels = latent_pyramid(clips, 3)
    for c, (column, velocity, term) in enumerate(zip(columns, velocities, terms, strict=True)):
        frame = units[column.stage] - 1
        level = levels[column.stage][column.rows]
        previous = None if frame < first_motion else level[:, :, frame - 1 : frame]
        expected = loss(velocity, column.target, level[:, :, frame : frame + 1], previous)
        assert torch.equal(term.total, expected.total)
        assert bool((term.motion > 0).all()) is (frame >= first_motion)
        for other in range(5):
            changed = clips.clone()
            changed[column.rows, :, other] += torch.randn(4, 8, 16, generator=generator(other))
            again = loss.over_columns(columns, velocities, changed, stages=3)[c]
            matters = frame >= first_motion and other in (frame, frame - 1)
            assert torch.equal(again.total, term.total) is not matters
        others = clips.clone()
        keep = torch.ones(8, dtype=torch.bool)
        keep[column.rows] = False
        others[keep] = 0.0
        assert torch.equal(loss.over_columns(columns, velocities, others, stages=3)[c].total, term.total)


def several_frames(units: int) -> tuple[TrainingColumn, torch.Tensor, torch.Tensor]:
    """A column that predicts two frames at once at full resolution, its answer and the clips."""
    pyramid, clips = AutoregressivePyramid(stage_of_column=(2,), frames_per_unit=2), latents(1)
    (column,) = pyramid.build(clips, [1, 1, units], pyramid.draw(clips, [1, 1, units], generator(0)))
    return column, answers([column])[0], clips


def test_several_frames_per_unit_pair_each_frame_with_its_predecessor():
    column, velocity, clips = several_frames(3)
    terms = MotionAwareLoss().over_columns([column], [velocity], clips, stages=3)[0]
    error = (velocity - column.target) ** 2
    motion = (clips[:, :, 3:5] - clips[:, :, 2:4]) ** 2
    torch.testing.assert_close(terms.motion, (error * motion).mean().reshape(1))


def test_the_first_latent_of_a_unit_may_be_the_one_without_a_motion_term():
    """Latents 1 and 2 in one unit: the paper's sum has the second alone, and still divides by all that is predicted."""
    column, velocity, clips = several_frames(2)
    terms = MotionAwareLoss().over_columns([column], [velocity], clips, stages=3)[0]
    error = (velocity - column.target) ** 2
    motion = (clips[:, :, 2:3] - clips[:, :, 1:2]) ** 2
    torch.testing.assert_close(terms.motion, (error[:, :, 1:] * motion).mean().reshape(1) / 2)
    torch.testing.assert_close(terms.base, error.mean().reshape(1))


def test_whole_clips_have_the_sum_of_the_paper():
    """Without history all latents are predicted at once: the terms of l = 2 .. L."""
    pyramid, clips = AutoregressivePyramid(stage_of_column=(2,), autoregressive=False), latents(1)
    (column,) = pyramid.build(clips, [1, 1, 1], pyramid.draw(clips, [1, 1, 1], generator(0)))
    (velocity,) = answers([column])
    terms = MotionAwareLoss().over_columns([column], [velocity], clips, stages=3)[0]
    weighted = (velocity - column.target)[:, :, 2:] * (clips[:, :, 2:] - clips[:, :, 1:-1])
    torch.testing.assert_close(terms.motion, weighted.square().sum().reshape(1) / clips.numel())


def test_a_negative_weight_is_refused():
    with pytest.raises(InputError, match=r"-0\.5"):
        MotionAwareLoss(-0.5)


def test_the_image_cannot_be_compared_with_what_precedes_it():
    with pytest.raises(InputError, match="first_motion_latent is 0, but latent 0 is the image"):
        MotionAwareLoss(first_motion_latent=0)
