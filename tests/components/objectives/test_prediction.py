"""Velocities that follow from predicted clean latents, with or without a still to start from."""

import pytest
import torch

from components.codecs.video.pixel import PixelCodec
from components.errors import InputError
from components.objectives.prediction import CleanPrediction, VelocityPrediction
from components.objectives.pyramid_columns import AutoregressivePyramid
from components.schedules.pyramid_schedule import PyramidSchedule, latent_pyramid
from tests.tiny_syncphony import generator, latents, training_columns

SCHEDULE = PyramidSchedule()


def same(x: torch.Tensor) -> torch.Tensor:
    return x


def velocity(
    prediction: CleanPrediction, output: torch.Tensor, clips: list, stage: int, local: torch.Tensor
) -> torch.Tensor:
    return prediction.velocity(output, clips, stage, local, SCHEDULE, same)


@pytest.mark.parametrize("from_still", [False, True])
@pytest.mark.parametrize("units", [(1, 1, 1), (3, 5, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_the_true_clean_latents_give_the_training_target(units: tuple[int, int, int], seed: int, from_still: bool):
    """At every stage and noise level, with whatever noise is in the history that the still comes from."""
    clips = latents(16, seed=seed)
    levels = latent_pyramid(clips, 3)
    checked = 0
    for column in training_columns(clips, units, seed):
        frame = column.first_frame
        answer = levels[column.stage][column.rows, :, frame : frame + 1]
        if from_still and frame > 0:
            answer = answer - column.clips[-2][:, :, -1:]
        found = velocity(CleanPrediction(from_still=from_still), answer, column.clips, column.stage, column.local_sigma)
        far = column.local_sigma > 0.05  # nearly clean inputs amplify rounding
        checked += int(far.sum())
        torch.testing.assert_close(found[far], column.target[far], atol=2e-3, rtol=1e-3)
    assert checked > 8


def test_a_model_that_says_nothing_continues_the_still():
    """With a zero output the way leads from any noise to the held newest frame of a pixel codec."""
    codec = PixelCodec(temporal_factor=2)
    history, noisy = latents(2, 3, channels=12), latents(2, 1, channels=12, seed=1)
    local = torch.tensor([1.0, 0.4])
    v = CleanPrediction(from_still=True).velocity(
        torch.zeros_like(noisy), [history, noisy], 2, local, SCHEDULE, codec.hold
    )
    end = noisy - local.view(-1, 1, 1, 1, 1) * v  # x = r start + (1 - r) end and v = start - end
    torch.testing.assert_close(end, codec.hold(history[:, :, -1:]), atol=1e-4, rtol=1e-4)


def test_without_history_the_still_is_zero():
    out, noisy, local = latents(1, 1), latents(1, 1, seed=1), torch.tensor([0.5])
    plain, still = (velocity(CleanPrediction(from_still=f), out, [noisy], 1, local) for f in (False, True))
    assert torch.equal(plain, still)


@pytest.mark.parametrize("from_still", [False, True])
def test_the_velocity_is_affine_in_the_output(from_still: bool):
    """What allows outputs to be guided before they become velocities: weights that add up to 1 go through."""
    clips = [latents(2, 2, seed=8), latents(2, 1)]
    outputs = [latents(2, 1, seed=s) for s in (1, 2, 3)]
    weights, local = (-3.0, 6.0, -2.0), torch.tensor([0.7, 0.2])
    prediction = CleanPrediction(from_still=from_still)
    for stage in range(3):
        each = [velocity(prediction, output, clips, stage, local) for output in outputs]
        together = sum(w * o for w, o in zip(weights, outputs, strict=True))
        expected = sum(w * v for w, v in zip(weights, each, strict=True))
        torch.testing.assert_close(velocity(prediction, together, clips, stage, local), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("stage", [0, 2])
def test_at_floor_one_the_weighted_loss_is_even_over_the_noise_level(stage: int):
    """An error of the clean latents (without coarse part) costs the same at any local noise level."""
    prediction = CleanPrediction(min_sigma=1.0)
    error = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 8).expand(3, 4, 1, 8, 16)
    clean, noisy, local = latents(3, 1), latents(3, 1, seed=1), torch.tensor([1.0, 0.5, 0.1])
    right, wrong = (velocity(prediction, c, [noisy], stage, local) for c in (clean, clean + error))
    cost = (wrong - right).square().flatten(1).mean(dim=1) * prediction.loss_weight(stage, local, SCHEDULE)
    torch.testing.assert_close(cost, cost[:1].expand(3), atol=1e-3, rtol=1e-3)


def test_the_weight_is_one_above_the_floor_and_falls_as_the_square_below():
    local = torch.tensor([1.0, 0.2, 0.1, 0.05])
    weight = CleanPrediction(min_sigma=0.1).loss_weight(2, local, SCHEDULE)
    sigma = local * SCHEDULE.start_sigma[2]
    torch.testing.assert_close(weight, torch.tensor([1.0, 1.0, *((sigma[2:] / 0.1) ** 2).tolist()]))
    assert torch.equal(VelocityPrediction().loss_weight(1, local, SCHEDULE), torch.ones(4))


def test_bfloat16_outputs_are_solved_in_float32():
    clips = [latents(1, 2).bfloat16(), latents(1, 1).bfloat16()]
    out = velocity(CleanPrediction(from_still=True), latents(1, 1, seed=1).bfloat16(), clips, 1, torch.tensor([0.5]))
    assert out.dtype == torch.float32


def test_velocity_prediction_is_the_output_itself():
    out = latents(1, 1)
    assert VelocityPrediction().velocity(out, [out * 2], 1, torch.tensor([0.5]), SCHEDULE, same) is out


@pytest.mark.parametrize("floor", [0.0, 1.5, -0.2])
def test_an_impossible_floor_is_refused(floor: float):
    with pytest.raises(InputError, match=f"min_sigma is {floor}"):
        CleanPrediction(floor)


def test_a_single_stage_needs_no_coarse_part():
    schedule = PyramidSchedule(1)
    pyramid = AutoregressivePyramid(schedule, stage_of_column=(0,))
    clips = latents(4, 2)
    (column,) = pyramid.build(clips, [2], pyramid.draw(clips, [2], generator(0)))
    found = CleanPrediction().velocity(clips[:, :, 1:2], column.clips, 0, column.local_sigma, schedule, same)
    torch.testing.assert_close(found, column.target, atol=1e-2, rtol=1e-3)
