"""The user's own images and sounds, through a real ``predict``."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.writer import write_mp4, write_wav
from datamodules.image_audio_pairs import ImageAudioPairs
from tests.components.media.made_files import RATE, write_file
from tests.datamodules.conftest import clip_of


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    for k in range(3):
        Image.fromarray(np.full((30, 50, 3), 60 * (k + 1), np.uint8)).save(tmp_path / f"i{k}.png")
        tone = 0.5 * torch.sin(torch.arange(44100 * 3) * 0.03 * (k + 1))
        write_wav(tmp_path / f"s{k}.wav", tone, 44100)
    return {
        "images": [str(tmp_path / f"i{k}.png") for k in range(3)],
        "sounds": [str(tmp_path / f"s{k}.wav") for k in range(3)],
        "captions": ["one", "two", "three"],
    }


def pairs(files: dict[str, list[str]], **more: Any) -> ImageAudioPairs:
    clip = clip_of(more, num_frames=24, fps=12.0, height=16, width=16)
    return ImageAudioPairs(clip=clip, **{"batch_size": 2, **files, **more})


class Echo(L.LightningModule):
    def predict_step(self, batch: ClipBatch, index: int) -> ClipBatch:
        return batch


def test_predict_gets_first_frames_sounds_and_prompts(files: dict[str, list[str]], tmp_path: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    batches = trainer.predict(Echo(), datamodule=pairs(files))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0].video.shape == (2, 1, 3, 16, 16)
    assert batches[0].video[1].float().mean() == pytest.approx(120, abs=1)
    assert batches[0].audio.shape == (2, 32000)
    assert [name for batch in batches for name in batch.ids] == ["000_i0_s0", "001_i1_s1", "002_i2_s2"]
    assert list(batches[1].captions) == ["three"]
    assert batches[0].position is None
    expected = 0.5 * torch.sin(torch.arange(32000) * 44100 / 16000 * 0.03)
    assert (batches[0].audio[0] - expected)[100:-100].abs().max() < 1e-3


def test_a_short_sound_ends_in_silence_and_says_so(
    files: dict[str, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_wav(tmp_path / "short.wav", torch.full((8000,), 0.5), 16000)
    files["sounds"][0] = str(tmp_path / "short.wav")
    with caplog.at_level(logging.WARNING, "avsync.data"):
        audio = next(iter(pairs(files).predict_dataloader())).audio
    assert audio.shape == (2, 32000)
    assert audio[0, 8000:].abs().max() == 0
    assert audio[0, :8000].min() > 0.49
    assert "short.wav lasts 0.500 s, the video 2.000 s: it ends in silence" in caplog.text


def test_the_sound_of_a_video_keeps_its_place_beside_the_picture(tmp_path: Path) -> None:
    """Second 0 is the first frame, from which the clip begins; this sound begins half a second later."""
    sound = np.zeros(2 * RATE, np.float32)
    sound[RATE : RATE + 500] = 0.9  # a click one second into the track
    late = [RATE // 2 + 1024 * k for k in range(-(-len(sound) // 1024))]
    path = str(write_file(tmp_path / "late.mkv", "mpeg4", "pcm_s16le", sound, range(75), stamps=late))
    module = pairs({"images": [path], "sounds": [path], "captions": ["a click"]})
    module.setup("predict")
    (batch,) = list(module.predict_dataloader())
    loud = (batch.audio[0].abs() > 0.3).nonzero().flatten()
    assert float(loud[0]) / 16000 == pytest.approx(1.5, abs=0.002)


def test_words_and_a_voice_instead_of_a_sound(files: dict[str, list[str]]) -> None:
    """For joint generation: silence as long as the video, and what the model is told of the sound it makes."""
    told = {
        "images": files["images"],
        "captions": files["captions"],
        "scenes": ["a hall", "a street", "a wood"],
        "transcripts": ["hello", "", "goodbye"],
        "references": [*files["sounds"][:2], ""],
    }
    first, second = pairs(told, reference_s=1.25).predict_dataloader()
    assert first.audio.shape == (2, 32000) and not first.audio.any()
    assert list(first.ids) == ["000_i0", "001_i1"]
    assert (list(first.scenes), list(second.scenes)) == (["a hall", "a street"], ["a wood"])
    assert (list(first.transcripts), list(second.transcripts)) == (["hello", ""], ["goodbye"])
    assert first.reference_audio.shape == (2, 20000) and first.reference_lengths.tolist() == [20000, 20000]
    assert second.reference_audio.shape == (1, 20000) and second.reference_lengths.tolist() == [0]
    expected = 0.5 * torch.sin(torch.arange(20000) * 44100 / 16000 * 0.03)
    assert (first.reference_audio[0] - expected)[100:-100].abs().max() < 1e-3
    plain = next(iter(pairs({key: told[key] for key in ("images", "captions")}).predict_dataloader()))
    assert plain.scenes is None and plain.transcripts is None and plain.reference_audio is None


def test_whole_mute_videos(tmp_path: Path) -> None:
    """For sounds that are made for a video: all of its frames at the clips' rate, sound or not."""
    frames = torch.arange(40, dtype=torch.uint8)[:, None, None, None].mul(6).expand(40, 3, 16, 16)
    write_mp4(tmp_path / "mute.mp4", frames, 24.0)
    told = {"images": [str(tmp_path / "mute.mp4")], "captions": ["grey"]}
    (batch,) = pairs(told, num_frames=16, whole_videos=True).predict_dataloader()
    assert batch.video.shape == (1, 16, 3, 16, 16) and batch.audio.shape == (1, 21333)
    assert batch.video.float().mean(dim=(0, 2, 3, 4)) == pytest.approx([12.0 * n for n in range(16)], abs=3)
    with pytest.raises(InputError, match=r"mute\.mp4"):
        next(iter(pairs(told, num_frames=30, whole_videos=True).predict_dataloader()))


def test_transparent_pictures(files: dict[str, list[str]]) -> None:
    Image.new("RGBA", (16, 16), (0, 200, 0, 0)).save(files["images"][0])
    white, black = (next(iter(pairs(files, **more).predict_dataloader())) for more in ({}, {"background": "black"}))
    assert white.video[0].min() == 255 and black.video[0].max() == 0
    assert torch.equal(white.video[1], black.video[1])


def test_bad_input(files: dict[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images is empty"):
        pairs({"images": [], "sounds": [], "captions": []})
    with pytest.raises(InputError, match="there are 3 images and 2 sounds; give one per image"):
        pairs({**files, "sounds": files["sounds"][:2]})
    with pytest.raises(InputError, match="batch_size is 0"):
        pairs(files, batch_size=0)
    with pytest.raises(InputError, match="fps is -1"):
        pairs(files, fps=-1)
    with pytest.raises(InputError, match="there is no section clip that says what the videos to make look like"):
        ImageAudioPairs(clip=None, **files)
    for name in ("blueish", "#ffffff80"):
        with pytest.raises(InputError, match=f"background is '{name}', which is no colour"):
            pairs(files, background=name)
    for name in ("images", "sounds"):
        lost = {**files, name: [*files[name][:2], str(tmp_path / "lost.png")]}
        with pytest.raises(
            InputError, match=rf"lost\.png does not exist; data\.{name} has to name files that are there"
        ):
            pairs(lost)
    write_wav(tmp_path / "silent.wav", torch.zeros(48000), 16000)
    with pytest.raises(InputError, match=r"silent\.wav is silent in its first 2\.000 s; give a sound to move to"):
        next(iter(pairs({**files, "sounds": [str(tmp_path / "silent.wav")] * 3}).predict_dataloader()))
    with pytest.raises(InputError, match=r"gone\.png does not exist"):
        next(iter(pairs({**files, "images": [str(tmp_path / "gone.png")] * 3}).predict_dataloader()))
    (tmp_path / "page.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"page\.png is corrupt"):
        next(iter(pairs({**files, "images": [str(tmp_path / "page.png")] * 3}).predict_dataloader()))
