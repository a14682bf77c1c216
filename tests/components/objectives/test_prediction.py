"""Velocities that follow from predicted clean latents."""

import pytest
import torch

from components.codecs.pixel_codec import PixelCodec
from components.objectives.prediction import CleanPrediction, VelocityPrediction
from components.schedules.pyramid_schedule import PyramidSchedule, latent_pyramid
from tests.tiny_syncphony import latents, training_columns


def hold(latents: torch.Tensor) -> torch.Tensor:
    return latents


@pytest.mark.parametrize("from_still", [False, True])
@pytest.mark.parametrize("units", [(1, 1, 1), (3, 5, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_the_true_clean_latents_give_the_training_target(units: tuple[int, int, int], seed: int, from_still: bool):
    """At every stage and noise level; with history, from a still, the truth is what must be added to it."""
    clips = latents(16, seed=seed)
    levels = latent_pyramid(clips, 3)
    for column in training_columns(clips, units, seed):
        frame = column.first_frame
        output = levels[column.stage][column.rows, :, frame : frame + 1]
        if from_still and len(column.clips) > 1:
            output = output - column.clips[-2][:, :, -1:]
        velocity = CleanPrediction(from_still=from_still).velocity(
            output, column.clips, column.stage, column.local_sigma, PyramidSchedule(), hold
        )
        far = column.local_sigma > 0.05  # nearly clean inputs amplify rounding
        torch.testing.assert_close(velocity[far], column.target[far], atol=2e-3, rtol=1e-3)


def test_the_velocity_is_affine_in_the_output():
    """What allows guidance to be applied before or after: weights that add up to 1 go through."""
    clips = [latents(2, 1, seed=9), latents(2, 1)]
    outputs = [latents(2, 1, seed=s) for s in (1, 2, 3)]
    weights = (-3.0, 6.0, -2.0)
    schedule, local = PyramidSchedule(), torch.tensor([0.7, 0.2])
    prediction = CleanPrediction(from_still=True)
    for stage in range(3):
        each = [prediction.velocity(o, clips, stage, local, schedule, hold) for o in outputs]
        mixed = prediction.velocity(
            sum(w * o for w, o in zip(weights, outputs, strict=True)), clips, stage, local, schedule, hold
        )
        expected = sum(w * v for w, v in zip(weights, each, strict=True))
        torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stage", range(3))
def test_at_full_floor_the_weighted_loss_is_the_clean_error_at_every_noise_level(stage: int):
    schedule = PyramidSchedule()
    local = torch.tensor([0.05, 0.3, 0.9])
    x, clean = latents(3, 1), latents(3, 1, seed=1)
    # An error that survives pooling and upsampling unchanged: constant over space.
    error = torch.randn(3, clean.shape[1], 1, 1, 1).expand_as(clean)
    prediction = CleanPrediction(min_sigma=1.0)
    exact = prediction.velocity(clean, [x], stage, local, schedule, hold)
    off = prediction.velocity(clean + error, [x], stage, local, schedule, hold)
    weight = prediction.loss_weight(stage, local, schedule).sqrt().view(-1, 1, 1, 1, 1)
    ratio = ((off - exact) * weight / error).flatten(1)
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), atol=2e-3, rtol=2e-3)


def test_the_pixel_codec_holds_its_last_frame():
    codec = PixelCodec(spatial_factor=4)
    video = torch.rand(2, 17, 3, 16, 16) * 2 - 1
    latents_ = codec.encode(video)
    held = codec.decode(torch.cat([latents_, codec.hold(latents_[:, :, -1:])], dim=2))
    torch.testing.assert_close(held[:, 17:], held[:, 16:17].expand(-1, 8, -1, -1, -1))


def test_bfloat16_outputs_are_solved_in_float32():
    clip = latents(1, 1).bfloat16()
    velocity = CleanPrediction().velocity(clip, [clip], 1, torch.tensor([0.5]), PyramidSchedule(), hold)
    assert velocity.dtype == torch.float32


def test_velocity_prediction_is_the_output_with_even_weights():
    output, local = latents(2, 1), torch.tensor([0.1, 0.9])
    prediction = VelocityPrediction()
    assert prediction.velocity(output, [latents(2, 1)], 1, local, PyramidSchedule(), hold) is output
    assert prediction.loss_weight(1, local, PyramidSchedule()).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("floor", [0.0, -1.0, 1.5])
def test_an_impossible_floor_is_refused(floor: float):
    with pytest.raises(ValueError, match="min_sigma"):
        CleanPrediction(min_sigma=floor)
