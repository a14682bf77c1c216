"""A training step on encoded clips is that on the clips themselves, its draws from a posterior included."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.contracts import ClipBatch
from components.media.clock import ClipShape
from datamodules.prepared.prepared_clip import PreparedClip
from datamodules.reading.cached_latents import DeliveredClip, collate_prepared
from datamodules.reading.clip_dataset import Clip
from lightning_modules.harmony.inputs import DropoutConfig
from lightning_modules.preparation.clip_encoder import ClipEncoder
from tests.components.codecs.video.causal_vae.test_model import tiny_vae
from tests.lightning_modules import tiny_module as syncphony
from tests.lightning_modules.harmony import tiny_harmony_module as harmony


def prepared(batch: ClipBatch, encoder: ClipEncoder) -> ClipBatch:
    """The batch as a cache gives it back, through the bytes on disk."""
    clips = [
        Clip(
            id=batch.ids[b],
            video_id=batch.video_ids[b],
            video=batch.video[b],
            audio=batch.audio[b],
            caption=batch.captions[b],
            transcript=None if batch.transcripts is None else batch.transcripts[b],
            onsets=None,
            position=0,
            valid=True,
            reference=None if batch.reference_audio is None else batch.reference_audio[b],
            reference_length=0 if batch.reference_lengths is None else int(batch.reference_lengths[b]),
            scene=None if batch.scenes is None else batch.scenes[b],
        )
        for b in range(len(batch))
    ]
    read = [PreparedClip.from_bytes(clip.to_bytes()) for clip in encoder.encode(clips)]
    empty = PreparedClip.from_bytes(encoder.empty().to_bytes())
    shape = replace(encoder.shape, num_frames=batch.video.shape[1])
    return collate_prepared([DeliveredClip(clip, batch.position, empty) for clip in read], shape)


def step(module, batch, index):
    module.log = module.log_dict = lambda *_args, **_kwargs: None
    return module.training_step(batch, index)


def shape_of(batch: ClipBatch) -> ClipShape:
    return ClipShape(batch.video.shape[1], batch.fps, *batch.video.shape[-2:], batch.sample_rate)


@pytest.mark.parametrize("draws", [False, True])
def test_syncphony_with_a_vae(draws):
    """Raw clips are encoded as prefixes, encoded ones are whole: their draws agree all the same."""
    vae = CausalVideoCodec(tiny_vae(), encode_window=None)
    module = syncphony.tiny_module(
        syncphony.SyncphonyDiT(syncphony.tiny_backbone("miniflux", 2, 10, 10), 2, audio_dim=8),
        codec=vae,
        sample_posterior=draws,
        text_dropout=0.5,
    )
    encoder = ClipEncoder(
        shape_of(syncphony.clips()), torch.device("cpu"), vae, None, module.audio_encoder, module.text_encoder
    )
    losses = []
    for index in range(3):
        batch = syncphony.clips(4, position=4 * index, frames=13, size=32)
        ready = prepared(batch, encoder)
        assert ready.video.shape[1] == 0 and ready.audio.shape[1] == 0
        expected = step(module, batch, index)
        torch.testing.assert_close(step(module, ready, index), expected, rtol=1e-5, atol=1e-6)
        losses.append(expected)
    mean = syncphony.clips(4, position=0, frames=13, size=32)
    module.sample_posterior = not draws
    assert not torch.isclose(step(module, mean, 0), losses[0], rtol=1e-4)


def test_a_posterior_is_drawn_anew_at_every_step_and_the_same_when_a_step_is_repeated():
    vae = CausalVideoCodec(tiny_vae(), encode_window=None)
    moments = vae.moments(torch.rand(2, 9, 3, 8, 8) * 2 - 1)
    first, again, other = moments.draw([1, 2]), moments.draw([1, 2]), moments.draw([3, 4])
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.allclose(first[0], first[1]) and torch.equal(moments.draw(None), moments.mean)
    short = replace(moments, mean=moments.mean[:, :, :2], std=moments.std[:, :, :2])
    assert torch.equal(short.draw([1, 2]), first[:, :, :2])


def test_moments_are_the_posterior_normalised():
    vae, video = CausalVideoCodec(tiny_vae(), encode_window=None), torch.rand(2, 9, 3, 8, 8) * 2 - 1
    moments, posterior = vae.moments(video), vae.posterior(video)
    assert torch.equal(moments.mean, vae.encode(video))
    for latents, scale in ((slice(0, 1), 1.8726), (slice(1, 3), 3.0986)):
        torch.testing.assert_close(moments.std[:, :, latents] * scale, posterior.std[:, :, latents])


@pytest.mark.parametrize("scenes", [None, ["a hall", "rain"]])
def test_harmony_with_references_scenes_and_transcripts(scenes):
    module = harmony.tiny_module(
        dropout=DropoutConfig(0.5, 0.5, 0.5), audio_codec=LogMelCodec(num_mels=harmony.AUDIO_CHANNELS // 2)
    )
    batch = replace(harmony.clips(2, position=0), scenes=scenes)
    device = torch.device("cpu")
    parts = module.inputs
    encoder = ClipEncoder(
        shape_of(batch),
        device,
        parts.video_codec,
        parts.audio_codec,
        None,
        parts.text_encoder,
        parts.transcript_encoder,
    )
    watched = partial(step, module)
    for index in range(4):
        at = replace(batch, position=2 * index)
        expected = watched(at, index)
        module.watch.flush(lambda tensor: tensor)
        torch.testing.assert_close(watched(prepared(at, encoder), index), expected, rtol=1e-5, atol=1e-6)
