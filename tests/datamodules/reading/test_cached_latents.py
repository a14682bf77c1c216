"""Encoded clips come in the order of the recordings they were cut from, and go on exactly where a run was stopped."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.video.pixel import PixelCodec
from components.errors import InputError
from components.media.writer import write_wav
from datamodules.folder_clips import FolderClips
from datamodules.prepared.prepared_clip import PreparedClip
from datamodules.prepared.store import Plan, Store
from datamodules.reading.cached_latents import CachedLatents, collate_prepared
from datamodules.reading.clip_dataset import ClipDataset, collate_clips
from datamodules.reading.clip_facts import facts_of_clips
from datamodules.reading.order import SampleKey
from datamodules.reading.records import ClipRecord
from lightning_modules.preparation.clip_encoder import ClipEncoder
from lightning_modules.preparation.preparation import Preparation
from tests.datamodules.conftest import write_recording
from tests.datamodules.reading.prepared_clips import SHAPE, data, preparation, train, train_on_two_ranks
from tests.processes import run_ranks, told

STEPS = 14


@pytest.fixture(scope="module")
def cache(avsync_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "latents"
    assert preparation(avsync_root, folder).run()
    return folder


def test_every_clip_is_that_of_the_recording_with_as_many_offsets(avsync_root, cache):
    raw = data(avsync_root, offsets=3).training_clips()
    cached = CachedLatents(str(cache), raw.seed, facts(cache))
    encoder = preparation(avsync_root, cache).encoder
    for position in range(30):
        keys = [SampleKey(position % 7, position), SampleKey((position + 2) % 7, position + 1)]
        clips = [raw[key] for key in keys]
        batch, expected = collate_prepared([cached[key] for key in keys], SHAPE), collate_clips(clips, SHAPE)
        assert (batch.ids, batch.captions, batch.position) == (expected.ids, expected.captions, position)
        assert (batch.num_frames, batch.num_samples) == (13, expected.audio.shape[1])
        pixels = expected.video.float() / 127.5 - 1
        torch.testing.assert_close(batch.video_latents, encoder.video_codec.encode(pixels), atol=1e-6, rtol=0)
        features = encoder.audio_encoder(expected.audio, 16000)
        torch.testing.assert_close(batch.audio_features.tokens, features.tokens, atol=1e-6, rtol=1e-5)
        assert torch.equal(batch.text_features.tokens, encoder.text_encoder(expected.captions).tokens)


def facts(cache: Path) -> dict:
    return json.loads((cache / "index.json").read_text())["avsync"]["clips"]


def test_neither_seed_nor_other_recordings_decide_what_a_fixed_clip_is(avsync_root):
    one, other = (data(avsync_root, offsets=3, seed=seed).training_clips() for seed in (5, 6))
    other.records = other.records[::-1]
    names = {one.exactly(SampleKey(r, 0, offset=k)).id for r in range(7) for k in range(3)}
    assert names == {other.exactly(SampleKey(r, 9, offset=k)).id for r in range(7) for k in range(3)}
    assert len(names) == 21


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_at_a_random_step_gives_the_batches_of_an_undisturbed_run(avsync_root, cache, tmp_path, workers):
    whole = train(avsync_root, cache, tmp_path, STEPS)
    assert [seen[0] for seen in whole] == list(range(0, 2 * STEPS, 2))
    stop = random.randrange(1, STEPS)
    first = train(avsync_root, cache, tmp_path, stop, num_workers=workers)
    rest = train(avsync_root, cache, tmp_path, STEPS, tmp_path / f"{stop}.ckpt", num_workers=workers)
    assert first + rest == whole, stop


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_ranks_go_on_from_one_and_share_its_batches(avsync_root, cache, tmp_path, workers):
    whole = train(avsync_root, cache, tmp_path, STEPS)
    stop = random.randrange(1, STEPS - 4)
    first = train(avsync_root, cache, tmp_path, stop)
    steps = stop + (STEPS - stop) // 2
    given = (avsync_root, cache, tmp_path, steps, tmp_path / f"{stop}.ckpt", workers)
    ended = run_ranks(train_on_two_ranks, given, 2)
    assert [one.status for one in ended] == [0, 0], told(ended)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    rest = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert first + rest == whole[: len(first) + len(rest)]


def test_an_address_in_an_object_store_gives_the_same_batches(avsync_root, cache, tmp_path, monkeypatch):
    """``local:`` is litdata's stand-in for one: what is read goes through its downloads."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    local = train(avsync_root, cache, tmp_path, 4)
    assert train(avsync_root, f"local:{cache}", tmp_path, 4, num_workers=1) == local


def test_what_was_kept_in_fewer_bits_is_float32_again_and_close(avsync_root, cache):
    clip = CachedLatents(str(cache), 0, facts(cache))[0].clip
    narrow = PreparedClip.from_bytes(clip.narrow(torch.bfloat16).to_bytes())
    assert narrow.tensors["video"].dtype == torch.float32 and narrow.tensors["features_mask"].dtype == torch.bool
    torch.testing.assert_close(narrow.tensors["video"], clip.tensors["video"], atol=0, rtol=2**-8)
    assert len(clip.narrow(torch.bfloat16).to_bytes()) < 0.6 * len(clip.to_bytes())
    assert PreparedClip.from_bytes(clip.to_bytes()).to_bytes() == clip.to_bytes()


def test_clips_of_different_lengths_are_cut_to_the_shortest(cache):
    one = CachedLatents(str(cache), 0, facts(cache))[0]
    short = replace(
        one.clip,
        num_frames=9,
        num_samples=12000,
        tensors={**one.clip.tensors, "video": one.clip.tensors["video"][:, :3]},
    )
    batch = collate_prepared([one, replace(one, clip=short)], SHAPE)
    assert batch.video_latents.shape[2] == 3 and (batch.num_frames, batch.num_samples) == (9, 12000)
    assert batch.audio_features.tokens.shape[1] == 1 + 12000 // 320


def test_recordings_of_different_lengths_are_encoded_as_long_as_they_are(tmp_path):
    root = tmp_path / "set"
    for k, seconds in enumerate((1.5, 2.0, 3.0)):
        write_recording(root / "videos/a" / f"{k}.mp4", seconds, k)
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text("".join(f"a/{k}.mp4\n" for k in range(3)))
    (root / "class_mapping.json").write_text('{"a": "a sound"}')
    clip = replace(SHAPE, num_frames=25, min_frames=13)
    assert preparation(root, tmp_path / "cache", clip=clip).run()
    raw = data(root, offsets=3, clip=clip)
    raw.codec_step = 4
    dataset = raw.training_clips()
    cached = CachedLatents(str(tmp_path / "cache"), raw.seed, facts(tmp_path / "cache"))
    codec, lengths = preparation(root, tmp_path / "cache", clip=clip).encoder.video_codec, set()
    for position in range(0, 20, 2):
        keys = [SampleKey((position + row) % 3, position + row) for row in range(2)]
        expected = collate_clips([dataset[key] for key in keys], clip)
        batch = collate_prepared([cached[key] for key in keys], clip)
        assert (batch.ids, batch.num_frames) == (expected.ids, expected.video.shape[1])
        torch.testing.assert_close(batch.video_latents, codec.encode(expected.video.float() / 127.5 - 1))
        assert batch.audio_features.tokens.shape[1] == 1 + expected.audio.shape[1] // 320
        lengths.add(batch.num_frames)
    assert lengths == {17, 25}


def test_recordings_that_cannot_be_used_are_left_out_or_refused(tmp_path):
    root = tmp_path / "set"
    names = [f"a/{k}.mp4" for k in range(3)]
    for k, name in enumerate(names):
        write_recording(root / "videos" / name, 3.0, k)
    (root / "videos" / names[1]).write_bytes(b"no video")
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text("\n".join(names))
    (root / "class_mapping.json").write_text('{"a": "a sound"}')
    with pytest.raises(InputError, match=r"a/1\.mp4"):
        preparation(root, tmp_path / "strict").run()
    with pytest.raises(InputError, match=r"more than data.max_corrupt_fraction = 0.1 allows"):
        preparation(root, tmp_path / "few", on_corrupt="skip", max_corrupt_fraction=0.1).run()
    # three of nine clips, two of which lie in a shard of five
    assert preparation(root, tmp_path / "cache", on_corrupt="skip", max_corrupt_fraction=0.34).run()
    cached = CachedLatents(str(tmp_path / "cache"), 0, facts(tmp_path / "cache"))
    assert {cached[SampleKey(1, position)].clip.video_id for position in range(20)} == {"a/0", "a/2"}


def test_a_recording_that_was_changed_and_kept_its_size_is_noticed(tmp_path):
    write_wav(tmp_path / "a.wav", 0.2 * torch.sin(torch.arange(16000) / 9), 16000)
    records = [ClipRecord("a", tmp_path / "a.wav", "", "a")]
    before = facts_of_clips(data(tmp_path).clip_settings(), records, 4)
    assert facts_of_clips(data(tmp_path).clip_settings(), records, 4) == before
    write_wav(tmp_path / "a.wav", 0.4 * torch.sin(torch.arange(16000) / 9), 16000)
    assert facts_of_clips(data(tmp_path).clip_settings(), records, 4) != before


def test_other_clips_and_other_offsets_are_refused(avsync_root, cache):
    with pytest.raises(InputError, match=r"was prepared with another data set: video_track is null there, 1 here"):
        data(avsync_root, latents=str(cache), video_track=1).groups("train")
    with pytest.raises(InputError, match=r"data\.offsets is 2, but .* holds 3 clips of each recording"):
        data(avsync_root, latents=str(cache), offsets=2).groups("train")
    with pytest.raises(InputError, match=r"clip.num_frames is 13 there, 25 here"):
        data(avsync_root, latents=str(cache), clip=replace(SHAPE, num_frames=25)).groups("train")


def test_mute_recordings_are_encoded_as_mute_or_passed_over(tmp_path):
    for k in range(4):
        write_recording(tmp_path / f"set/{k}.mp4", 2.0, k, sound=k % 2 == 0)

    def prepared(folder: Path, mute: str) -> tuple[ClipDataset, CachedLatents]:
        """The recordings' clips, and the same encoded."""
        options = {"prompt": "a tone", "hold_out": 0.25, "clip": SHAPE, "num_workers": 0, "offsets": 2}
        source = FolderClips(str(tmp_path / "set"), mute=mute, reference="own", reference_s=0.5, **options)
        clips = source.training_clips()
        plan = Plan({}, facts_of_clips(source.clip_settings(), clips.records, 8), {}, 2, len(clips), 5, "float32")
        encoder = ClipEncoder(SHAPE, torch.device("cpu"), PixelCodec(4), LogMelCodec(num_mels=16))
        assert Preparation(Store(folder, plan), clips, encoder, 0, "error", 0.0).run()
        return clips, CachedLatents(str(folder), 0, facts(folder))

    clips, cached = prepared(tmp_path / "silence", "silence")
    keys = [SampleKey(position % len(clips), position) for position in range(6)]
    raw = collate_clips([clips[key] for key in keys], SHAPE)
    batch = collate_prepared([cached[key] for key in keys], SHAPE)
    assert batch.mute.tolist() == raw.mute.tolist()
    assert 0 < raw.mute.sum() < 6
    assert batch.reference_lengths.tolist() == raw.reference_lengths.tolist()
    assert batch.prepared.sounding.tolist() == (~raw.mute).tolist()
    clips, cached = prepared(tmp_path / "skip", "skip")
    assert [cached[key].clip.id for key in keys] == [clips[key].id for key in keys]
    assert not any(cached[key].clip.mute for key in keys)
    with pytest.raises(InputError, match='prepared with another data set: mute is "skip" there, "silence" here'):
        FolderClips(
            str(tmp_path / "set"),
            prompt="a tone",
            hold_out=0.25,
            clip=SHAPE,
            mute="silence",
            reference="own",
            reference_s=0.5,
            latents=str(tmp_path / "skip"),
        ).groups("train")
