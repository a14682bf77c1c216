"""Velocities by way of clean latents: exact, from a still, and learnt by the error of the clean latents."""

import pytest
import torch

from components.backbones.harmony.model import CleanHarmonyTransformer, HarmonyTransformer
from components.codecs.video.pixel import PixelCodec
from components.objectives.cross_task import CrossTaskSynergy
from tests.tiny_harmony import audio_tower, inputs, tiny_interaction, video_tower
from tests.tiny_syncphony import generator, randomise


def pair() -> tuple[HarmonyTransformer, CleanHarmonyTransformer]:
    models = []
    for kind in (HarmonyTransformer, CleanHarmonyTransformer):
        model = kind(video_tower(), audio_tower(), tiny_interaction())
        randomise(model, seed=5)
        models.append(model.eval())
    return models[0], models[1]


@torch.no_grad()
@pytest.mark.parametrize("per_latent", [False, True])
def test_a_whole_step_arrives_at_the_clean_latents(per_latent: bool):
    plain, clean = pair()
    given = inputs()
    given["first_frame"] = torch.tensor([True, False])
    given["t_v"], given["t_a"] = torch.tensor([400.0, 0.0]), torch.tensor([700.0, 1000.0])
    if per_latent:
        given["t_v"] = given["t_v"][:, None].repeat(1, given["z_v"].shape[2])
    out_v, out_a = plain(**given)
    v_v, v_a = clean(**given)
    still = given["z_v"][:1, :, :1]
    torch.testing.assert_close(given["z_v"][:1] - 0.4 * v_v[:1], out_v[:1] + still)
    assert not v_v[1].any()  # it drives: there is no way to go
    sigma = given["t_a"].view(-1, 1, 1) / 1000
    torch.testing.assert_close(given["z_a"] - sigma * v_a, out_a)


def test_the_pixel_codec_repeats_a_given_frame_in_latent_0():
    codec = PixelCodec(temporal_factor=4, spatial_factor=4)
    image = torch.rand(1, 1, 3, 16, 16, generator=generator(0)) * 2 - 1
    latent = codec.encode(image)
    torch.testing.assert_close(codec.hold(latent), latent)


def test_min_sigma_turns_the_velocity_error_into_that_of_clean_latents():
    g = generator(1)
    video, audio = torch.randn(3, 4, 3, 2, 2, generator=g), torch.randn(3, 5, 7, generator=g)
    plain, weighted = (
        CrossTaskSynergy(
            min_sigma=s,
            probabilities=(1, 0, 0),
            audio_driven_weight=0,
            video_driven_weight=0,
            first_frame_probability=0,
        )
        for s in (0.0, 1.0)
    )
    draws = weighted.draw(video, audio, g)
    rows = weighted.rows(video, audio, draws)
    assert rows.video is not None and rows.audio is not None
    guess_v, guess_a = torch.randn(video.shape, generator=g), torch.randn(audio.shape, generator=g)
    v_v = (rows.video.latents - guess_v) / rows.video.sigma.view(-1, 1, 1, 1, 1)
    v_a = (rows.audio.latents - guess_a) / rows.audio.sigma.view(-1, 1, 1)
    loss, _ = weighted.loss(rows, v_v, v_a)
    wanted = (guess_v - video).square().mean() + (guess_a - audio).square().mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
    assert plain.loss(rows, v_v, v_a)[0] > 1.5 * loss
