"""What a training row reads: texts, references, latents, rates; and batches that do not fit."""

from dataclasses import replace

import pytest
import torch

from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.pixel import PixelCodec
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.media.activity import carries_motion, carries_sound
from components.media.clock import LatentClock
from components.objectives.cross_task import CrossTaskSynergy
from lightning_modules.harmony.inputs import DropoutConfig
from tests.lightning_modules.harmony.tiny_harmony_module import (
    AUDIO_CHANNELS,
    NUM_AUDIO,
    RATE,
    clips,
    step,
    tiny_module,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def test_pictures_and_sounds_are_described_apart():
    """A tower reads the description of its own modality; without one of the sounds, captions serve both."""
    module, given = tiny_module(dropout=DropoutConfig(text=0.0)), []
    module.transformer.register_forward_pre_hook(lambda m, args, kwargs: given.append(kwargs), with_kwargs=True)
    batch, scenes = clips(position=0), ["a street", "a bang"]
    captions, sounds = (module.text_encoder(texts).tokens for texts in (batch.captions, scenes))
    assert not torch.equal(captions[:, :2], sounds[:, :2])
    for described, expected in ((batch, captions), (replace(batch, scenes=scenes), sounds)):
        given.clear()
        step(module, described)
        module.generate(described, SyncCFG("none"))
        assert len(given) == 1 + module.sampler.num_steps
        for call in given:
            assert torch.equal(call["text_v"].tokens, captions)
            assert torch.equal(call["text_a"].tokens, expected)


def test_dropouts_replace_texts_and_references():
    calls = []
    for probability in (1.0, 0.0):
        module = tiny_module(dropout=DropoutConfig(probability, probability, probability))
        module.transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
        step(module, clips())
    dropped, kept = calls
    assert dropped["ref_len"].tolist() == [0, 0]
    assert kept["ref_len"].tolist() == [3, 0], "2000 samples are three whole latents"
    assert dropped["text_v"].mask.sum(1).tolist() == [1, 1]
    assert kept["text_v"].mask.sum(1).tolist() == [3, 2]
    assert dropped["transcript"].mask.sum(1).tolist() == [1, 1]
    assert kept["transcript"].mask.sum(1).tolist() == [9, 1]


def test_what_counts_as_sound_and_motion():
    batch = clips()
    quiet = batch.audio.clone()
    quiet[0] = 5e-4
    assert carries_sound(replace(batch, audio=quiet)).tolist() == [False, True]
    assert carries_sound(replace(batch, audio=torch.zeros(2, 0))).tolist() == [False, False]
    frozen = batch.video.clone()
    frozen[1] = frozen[1, :1]
    assert carries_motion(replace(batch, video=frozen)).tolist() == [True, False]
    latents = torch.randn(2, 4, 5, 2, 2)
    latents[0, :, 1:] = latents[0, :, 1:2]
    prepared = replace(batch, video=batch.video[:, :1], video_latents=latents)
    assert carries_motion(prepared).tolist() == [False, True]


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, {"video": torch.zeros(2, 8, 3, 8, 8, dtype=torch.uint8)}, "8 frames do not fit the codec"),
        (
            {},
            {"video": torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8)},
            "clip0_0 has 1 video frames, so it is a sound",
        ),
        ({}, {"video": torch.zeros(2, 9, 3, 10, 8, dtype=torch.uint8)}, "height 10 .* multiple of 4; .* to 8 or 12"),
        ({}, {"audio": torch.zeros(2, 0)}, "clip clip0_0 has no sound"),
        ({}, {"sample_rate": 44100}, "works at 16000 Hz but got audio at 44100 Hz"),
        (
            {"dropout": DropoutConfig(transcript=0.0)},
            {"transcripts": ["x" * 30, ""]},
            "transcript of clip 'clip0_0' has 30",
        ),
        (
            {"stage": "timbre"},
            {"reference_audio": None, "reference_lengths": None},
            "stage timbre learns voices .* reference_s",
        ),
    ],
)
def test_batches_that_do_not_fit_are_named(settings: dict, change: dict, message: str):
    module = tiny_module(**settings)
    with pytest.raises(InputError, match=message):
        step(module, replace(clips(), **change))


@pytest.mark.parametrize("name", ["reference", "text", "transcript"])
@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(name: str, probability: float):
    with pytest.raises(InputError, match=rf"^dropout\.{name} is {probability}: give a probability from 0 to 1"):
        DropoutConfig(**{name: probability})


def test_latents_follow_the_experiment_and_padding_is_not_learnt():
    module = tiny_module()
    sound = module.inputs.audio(replace(clips(), audio=clips().audio[:, : 8 * 512]))
    assert sound.latents.shape == (2, AUDIO_CHANNELS, NUM_AUDIO)
    assert sound.lengths.tolist() == [8, 8]
    assert module.inputs.audio(clips()).lengths is None


@pytest.mark.parametrize(("reference_s", "num"), [(2.05, 65), (5.0, 157), (1.0, 32), (0.01, 1)])
def test_the_slot_of_references_follows_from_their_length(reference_s: float, num: int):
    """2.05 s and 5.0 s are those of the shipped experiments, at 31.25 latents per second."""
    samples = round(reference_s * RATE)
    batch = replace(clips(), reference_audio=torch.zeros(2, samples), reference_lengths=torch.tensor([samples, 0]))
    latents, lengths = tiny_module().inputs.reference(batch)
    assert latents.shape == (2, AUDIO_CHANNELS, num)
    assert lengths.tolist() == [max(1, samples // 512), 0], "whole latents, but at least one"


def test_rates_come_from_clips_and_codecs():
    """The frame rate is the batch's; without a video codec the temporal factor is that of the stage to come."""
    module = tiny_module(video_codec=PixelCodec(temporal_factor=4), future_temporal_factor=8)
    assert module.inputs.clock(clips()) == LatentClock(24.0, 4, 31.25)
    assert module.inputs.clock(replace(clips(), fps=30.0)) == LatentClock(30.0, 4, 31.25)
    alone = tiny_module(stage="audio", audio_codec=LogMelCodec(num_mels=2, latent_hop=256), future_temporal_factor=8)
    assert alone.inputs.clock(clips()) == LatentClock(24.0, 8, 62.5)
    calls: list[dict] = []
    alone.transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
    step(alone, clips())
    alone.generate(clips())
    assert {call["clock"] for call in calls} == {LatentClock(24.0, 8, 62.5)}


def test_nothing_is_learnt_from_the_sound_of_a_mute_clip():
    """Whatever stands in its place; the other clip's sound, and both pictures, count."""
    module, batch = tiny_module(tasks=CrossTaskSynergy("all")), clips(position=0)
    mute = replace(batch, mute=torch.tensor([False, True]))
    other = mute.audio.clone()
    other[1] += 0.1
    loss = step(module, mute)
    assert loss != step(module, batch)
    assert loss == step(module, replace(mute, audio=other))
    other[0] += 0.1
    assert loss != step(module, replace(mute, audio=other))
    video = batch.video.clone()
    video[1] = 255 - video[1]
    assert loss != step(module, replace(mute, video=video))


def test_a_sound_alone_teaches_the_sound_beside_a_picture_that_is_noise():
    module, batch, calls = tiny_module(tasks=CrossTaskSynergy("all")), clips(position=0), []
    module.transformer.register_forward_pre_hook(lambda m, args, kwargs: calls.append(kwargs), with_kwargs=True)
    alone = replace(batch, video=batch.video[:, :0])
    loss = step(module, alone)
    (call,) = calls
    assert call["z_v"].shape == (6, 24, 3, 4, 4) and (call["t_v"] == 1000).all() and not call["first_frame"].any()
    loss.backward()
    assert all(p.grad is not None for p in module.transformer.parameters() if p.requires_grad)
    assert loss != step(module, replace(alone, audio=batch.audio + 0.1))
    with pytest.raises(InputError, match="clip0_0 has 0 video frames, so it is a sound alone"):
        step(tiny_module(stage="video"), alone)


def test_a_video_tower_alone_learns_from_mute_clips_as_from_others():
    module, batch = tiny_module(stage="video"), clips(position=0)
    assert step(module, replace(batch, mute=torch.tensor([False, True]))) == step(module, batch)
