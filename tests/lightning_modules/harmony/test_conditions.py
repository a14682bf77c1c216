"""What is generated from what: joint and driven clips, variants, anchors, negative texts."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.samplers.joint_sampler import JointSampler
from lightning_modules.harmony.conditions import NegativesConfig
from lightning_modules.harmony.module import HarmonyModule
from tests.lightning_modules.harmony.tiny_harmony_module import (
    RATE,
    clips,
    tiny_module,
    tiny_transformer,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def trained_module(**settings: Any) -> HarmonyModule:
    return tiny_module(tiny_transformer(trained=True), **settings).eval()


def test_variants_share_what_is_encoded_and_their_noise():
    module, encoded = trained_module(variants=["no_synccfg"]), []
    encode = module.video_codec.encode
    module.video_codec.encode = lambda *a: encoded.append(a[0].shape[1]) or encode(*a)  # type: ignore[method-assign]
    batch = clips()
    result = module.validation_step(batch, 0)
    assert encoded == [1, 9], "the first frame and its still, once"
    plain = result.variants["no_synccfg"]
    again = module.generate(batch, SyncCFG("text"))
    assert torch.equal(plain.video, again.video)
    assert torch.equal(plain.audio, again.audio)
    assert not torch.allclose(plain.video, result.video)
    assert not torch.allclose(plain.audio, result.audio)


@pytest.mark.parametrize("task", ["audio_to_video", "video_to_audio"])
def test_a_driven_variant_is_the_driven_task(task: str):
    batch, module = clips(), trained_module(variants=[task])
    encoded = []
    encode = module.video_codec.encode
    module.video_codec.encode = lambda *a: encoded.append(a[0].shape[1]) or encode(*a)  # type: ignore[method-assign]
    made = module.validation_step(batch, 0).variants[task]
    assert encoded == [1, 9] + [9] * (task == "video_to_audio"), "beside joint generation only what drives is encoded"
    alone = trained_module(task=task).generate(batch)
    torch.testing.assert_close(made.video, alone.video)
    torch.testing.assert_close(made.audio, alone.audio)
    given = made.audio if task == "audio_to_video" else made.video
    assert torch.equal(given, batch.audio if task == "audio_to_video" else batch.video / 255)


@pytest.mark.parametrize("without", ["grey", "none"])
def test_the_sound_of_a_given_video_is_guided_away_from_its_own_picture(without: str):
    """Also where videos are not made from a first frame, so that the joint task's anchor is another one, or none."""
    settings: dict[str, Any] = {"from_image": False, "still_without_image": without}
    batch, module = clips(), trained_module(variants=["video_to_audio"], **settings)
    made = module.validation_step(batch, 0).variants["video_to_audio"]
    alone = trained_module(task="video_to_audio", **settings).generate(batch)
    torch.testing.assert_close(made.audio, alone.audio)


def test_a_guidance_of_ones_own_is_encoded_for():
    guidance, batch = SyncCFG("sync", video_sync_scale=3.0, audio_sync_scale=2.0), clips()
    plain, guided = (trained_module(sampler=JointSampler(2, guidance=one)) for one in (SyncCFG("none"), guidance))
    found, wanted = plain.generate(batch, guidance), guided.generate(batch)
    assert torch.equal(found.video, wanted.video) and torch.equal(found.audio, wanted.audio)
    assert not torch.equal(found.video, plain.generate(batch).video)


@pytest.mark.parametrize(
    ("task", "given", "sentence"),
    [
        ("joint", ["sounds"], "data.sounds is given, but generation.task is 'joint', which makes the sound itself"),
        ("joint", ["whole_videos"], "data.whole_videos is given, but generation.task is 'joint', which reads first"),
        ("audio_to_video", ["references"], "'audio_to_video', but data.sounds is not given: give a sound for every"),
        ("video_to_audio", ["sounds"], "data.sounds is given, but generation.task is 'video_to_audio', which makes"),
        ("video_to_audio", [], "'video_to_audio', but data.whole_videos is not given: give true, or set the task"),
    ],
)
def test_what_the_task_does_not_read_is_refused(task: str, given: list[str], sentence: str):
    module = trained_module(task=task)
    with pytest.raises(InputError, match=sentence):
        module.check_given(given)
    drives = {"joint": [], "audio_to_video": ["sounds"], "video_to_audio": ["whole_videos"]}[task]
    module.check_given([*drives, "scenes", "references", "transcripts"])
    silent = replace(module.conditions, inputs=replace(module.inputs, transcript_encoder=None))
    with pytest.raises(InputError, match=r"data\.transcripts is given, but transcript_encoder is null"):
        silent.check_given([*drives, "transcripts"])


def test_joint_generation():
    module, batch = trained_module(), replace(clips(), valid=torch.tensor([True, False]))
    result = module.generate(batch)
    assert result.video.shape == batch.video.shape
    assert result.audio.shape == batch.audio.shape
    assert result.sample_rate == RATE
    assert result.reference is batch
    assert result.valid_mask().tolist() == [True, False]
    first = module.video_codec.decode(module.video_codec.encode(batch.video[:, :1] / 127.5 - 1)).add(1) / 2
    torch.testing.assert_close(result.video[:, :1], first.clamp(0, 1), msg="the first frame is kept")
    alone = module.generate(replace(clips(), ids=["clip0_0", "another"]))
    torch.testing.assert_close(alone.audio[0], result.audio[0])
    assert not torch.allclose(alone.audio[1], result.audio[1]), "a clip's noise comes from its name"


def test_one_modality_from_the_other():
    batch = clips()
    result = trained_module(task="audio_to_video").generate(batch)
    assert torch.equal(result.audio, batch.audio)
    assert not torch.allclose(result.video, batch.video / 255.0)
    short = replace(batch, video=batch.video[:, :1])
    assert trained_module(task="audio_to_video").generate(short).video.shape[1] == 9, "as long as the sound"
    with pytest.raises(InputError, match=r"the sound of clip0_0 is shorter than the shortest video \(0.21 s\)"):
        trained_module(task="audio_to_video").generate(replace(short, audio=batch.audio[:, :2000]))
    with pytest.raises(
        InputError, match=r"clip0_0 has no sound, but generation\.task is 'audio_to_video': give sounds"
    ):
        trained_module(task="audio_to_video").generate(replace(batch, audio=torch.zeros_like(batch.audio)))
    result = trained_module(task="video_to_audio").generate(batch)
    torch.testing.assert_close(result.video, batch.video / 255.0)
    assert not torch.allclose(result.audio, batch.audio)


@pytest.mark.parametrize("still", ["grey", "none"])
def test_without_an_image(still: str):
    module = trained_module(from_image=False, still_without_image=still)
    encoded = module.encode_conditions(clips())
    assert encoded.conditions.image is None
    assert (encoded.conditions.still is None) == (still == "none")
    if still == "grey":
        assert encoded.conditions.still.shape == (2, 24, 3, 4, 4)
    assert module.generate(clips()).video.shape == clips().video.shape
    unseen = replace(clips(), video=clips().video[:, :0])  # sounds without picture, for their words and voices
    assert module.generate(unseen).video.shape == clips().video.shape
    with pytest.raises(InputError, match="clip0_0 has no picture, but videos are made from their first frame"):
        tiny_module().generate(unseen)


def test_sound_alone():
    module = tiny_module(tiny_transformer(False, trained=True), stage="timbre").eval()
    result = module.generate(clips())
    assert result.audio.shape == clips().audio.shape
    torch.testing.assert_close(result.video, clips().video / 255.0)


def test_negative_texts_are_encoded_only_where_they_are_read():
    asked: list[list[str]] = []
    module = trained_module(negatives=NegativesConfig("blurred", "noise", "umm"))
    encoder = module.text_encoder.forward
    module.text_encoder.forward = lambda prompts: asked.append(list(prompts)) or encoder(prompts)  # type: ignore
    given = module.encode_conditions(clips()).conditions
    assert asked[1:] == [["blurred"] * 2, ["noise"] * 2]
    assert given.audio_text.negative_transcript.mask.sum(1).tolist() == [3, 3]
    module.sampler = JointSampler(1, guidance=SyncCFG("sync"))
    given = module.encode_conditions(clips()).conditions
    assert given.video_text.negative is None
    assert len(asked) == 4


def test_a_null_that_the_parser_made_a_word_of_is_refused():
    """``--model.init_args.negatives.transcript null`` arrives as a word; the section's own value does not."""
    with pytest.raises(
        InputError, match=r"^negatives\.transcript is the word None: .*\.negatives '\{transcript: null\}'"
    ):
        NegativesConfig(transcript="None")
    assert NegativesConfig(transcript=None).transcript is None
