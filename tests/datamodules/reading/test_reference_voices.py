"""Whose sound is a reference, which seconds of it, and what becomes of clips that have none."""

import json
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from components.errors import InputError
from components.media.writer import write_wav
from datamodules.reading.order import SampleKey
from datamodules.speech_clips import SpeechClips
from tests.datamodules.conftest import clip_of
from tests.public_folders.speech import RATE, heard, write_speech


def data(root: Path, **more: Any) -> SpeechClips:
    clip = clip_of(more, num_frames=25, fps=25.0, height=16, width=16, sample_rate=RATE)
    return SpeechClips(
        str(root), clip=clip, **{"num_workers": 0, "seed": 3, "reference_s": 0.8, "audio_only": True, **more}
    )


def manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_ramp(path: Path, seconds: float, begin: float = 0.0) -> None:
    """Sample k is ``begin`` plus k / 2^14 of full scale per second: a sample says from where it is."""
    write_wav(path, begin + torch.arange(round(seconds * RATE)) / RATE / 16, RATE)


def second_of(samples: Tensor) -> float:
    """From which second of a ramp a piece begins."""
    return float(samples[0]) * 16


def test_a_sound_without_speaker_hears_another_piece_of_its_recording(tmp_path: Path) -> None:
    """Harmony's stages 2 and 3: of random place and length, before or after the clip and never of the clip itself."""
    write_ramp(tmp_path / "rain.wav", 4.0)
    rows = manifest(tmp_path, [{"id": split, "audio": "rain.wav", "split": split} for split in ("train", "test")])
    module = data(rows, min_reference_s=0.3)
    module.setup("fit")
    sides, lengths = set(), set()
    for position in range(60):
        clip = module.dataset("train").parts[0][SampleKey(0, position)]
        assert clip.reference is not None
        begin_s, length_s = second_of(clip.audio), clip.reference_length / RATE
        from_s = second_of(clip.reference)
        assert 0.3 <= length_s <= 0.8
        assert from_s + length_s <= begin_s + 1e-3 or from_s >= begin_s + 1.0 - 1e-3
        piece = clip.reference[: clip.reference_length]
        assert (piece.diff() - 1 / RATE / 16).abs().max() < 1e-4  # of one place
        assert not clip.reference[clip.reference_length :].any()
        sides.add(from_s < begin_s)
        lengths.add(clip.reference_length)
        again = module.dataset("train").parts[0][SampleKey(0, position)]
        assert again.reference is not None and torch.equal(again.reference, clip.reference)
    assert sides == {True, False} and len(lengths) > 40
    assert max(lengths) > 0.75 * RATE and min(lengths) < 0.35 * RATE
    # evaluation: the beginning of the longer side, as long as the slot
    for _ in range(2):
        clip = module.dataset("val").parts[0][0]
        assert clip.reference is not None and clip.reference_length == round(0.8 * RATE)
        assert second_of(clip.audio) == pytest.approx(1.5, abs=1e-3)
        assert second_of(clip.reference) == pytest.approx(0.0, abs=1e-3)


def test_references_come_from_the_track_of_the_clips(tmp_path: Path) -> None:
    """A camera's sound first, which is the default, and what is said second."""
    for name, seconds in (("x", 4.0), ("y", 4.0)):
        with av.open(tmp_path / f"{name}.mka", "w") as file:
            streams = [file.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
            for stream, level in zip(streams, (0.1, 0.4), strict=True):
                block = np.full((1, round(seconds * RATE)), round(level * 32767), np.int16)
                chunk = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = RATE, 0, Fraction(1, RATE)
                file.mux(stream.encode(chunk))
    for speaker in ({"speaker": "one"}, {}):  # another utterance of the voice, another piece of the recording
        rows = [
            {"id": f"{split}{name}", "audio": f"{name}.mka", "caption": "x", "split": split, **speaker}
            for split in ("train", "test")
            for name in "xy"
        ]
        for track, level in ((None, 0.1), (0, 0.1), (1, 0.4)):
            module = data(manifest(tmp_path, rows), audio_track=track)
            module.setup("fit")
            clip = module.dataset("train").parts[0][SampleKey(0, 0)]
            assert float(clip.reference[: clip.reference_length].mean()) == pytest.approx(level, abs=0.01)
            assert float(clip.audio.mean()) == pytest.approx(level, abs=0.01)


def test_a_piece_stays_in_the_parts_of_the_recording_that_the_split_has(tmp_path: Path) -> None:
    write_ramp(tmp_path / "long.wav", 9.0)
    spans = {"a": (1.0, 2.0, "train"), "b": (3.0, 4.0, "train"), "held out": (5.0, 9.0, "test")}
    rows = [
        {"id": name, "audio": "long.wav", "start": start, "end": end, "split": split}
        for name, (start, end, split) in spans.items()
    ]
    module = data(manifest(tmp_path, rows), min_reference_s=0.5)
    module.setup("fit")
    for position in range(10):
        for item, others in ((0, (3.0, 4.0)), (1, (1.0, 2.0))):
            clip = module.dataset("train").parts[0][SampleKey(item, position)]
            assert clip.reference is not None and clip.reference_length >= 0.5 * RATE
            from_s = second_of(clip.reference)
            assert others[0] - 1e-3 <= from_s and from_s + clip.reference_length / RATE <= others[1] + 1e-3


def test_speech_hears_its_speaker_and_sounds_of_a_speaker_without_another_their_recording(tmp_path: Path) -> None:
    write_speech(tmp_path / "a0.wav", 0, 0, seconds=3.0)
    write_speech(tmp_path / "a1.wav", 0, 1, seconds=3.0)
    write_speech(tmp_path / "b0.wav", 1, 0, seconds=3.0)
    write_speech(tmp_path / "c0.wav", 2, 0, seconds=3.0)
    rows = [
        {"id": "a0", "audio": "a0.wav", "speaker": "ann", "transcript": "one"},
        {"id": "a1", "audio": "a1.wav", "speaker": "ann", "transcript": "two"},
        {"id": "b0", "audio": "b0.wav", "speaker": "ben", "transcript": "alone"},
        {"id": "c0", "audio": "c0.wav", "speaker": "a brook"},
    ]
    path = manifest(
        tmp_path,
        [{**row, "split": split} for row in rows for split in ("train",)]
        + [{"id": "t", "audio": "a0.wav", "split": "test"}],
    )
    module = data(path, min_reference_s=0.6, partial_transcripts="keep")
    module.setup("fit")
    clips = [module.dataset("train").parts[0][SampleKey(k, 5)] for k in range(4)]
    assert [clip.reference_length > 0 for clip in clips] == [True, True, False, True]
    assert [heard(clips[k].reference) for k in (0, 1, 3)] == [(0, 1), (0, 0), (2, 0)]


def test_utterances_are_cut_to_random_lengths(tmp_path: Path) -> None:
    """Longer than the slot, shorter than it and shorter than the shortest; from memory the same."""
    for index, seconds in enumerate((3.0, 0.7, 0.2)):
        write_ramp(tmp_path / f"other{index}.wav", seconds, begin=0.01)
        write_speech(tmp_path / f"{index}.wav", 1, 0, seconds=1.0)
    rows = [
        {"id": f"{kind}{index}", "audio": f"{name}{index}.wav", "speaker": str(index), "split": split}
        for index in range(3)
        for kind, name, split in (("clip", "", "train"), ("other", "other", "train"))
    ]
    path = manifest(tmp_path, [*rows, {**rows[0], "id": "t", "split": "test"}])

    def drawn(item: int, **more: Any) -> list[Tensor]:
        module = data(path, min_reference_s=0.4, pad_audio=True, **more)
        module.setup("fit")
        clips = [module.dataset("train").parts[0][SampleKey(item, position)] for position in range(40)]
        pieces = [clip.reference[: clip.reference_length] for clip in clips if clip.reference is not None]
        assert all((piece.diff() - 1 / RATE / 16).abs().max() < 1e-4 for piece in pieces)
        return pieces

    for item, shortest, longest in ((0, 0.4, 0.8), (2, 0.4, 0.7), (4, 0.2, 0.2)):
        pieces = drawn(item)
        lengths = {len(piece) for piece in pieces}
        assert min(lengths) >= round(shortest * RATE) and max(lengths) <= round(longest * RATE)
        if shortest < longest:
            assert len(lengths) > 30 and len({float(piece[0]) for piece in pieces}) > 20
        kept = drawn(item, cache=True)
        assert all(torch.equal(one, two) for one, two in zip(pieces, kept, strict=True))


def test_clips_without_reference_are_counted_and_said_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(5):
        write_ramp(tmp_path / f"{index}.wav", 1.3)  # 0.3 s beside the clip
    rows = [{"id": str(k), "audio": f"{k}.wav", "split": "train"} for k in range(4)]
    path = manifest(tmp_path, [*rows, {"id": "4", "audio": "4.wav", "split": "test", "speaker": "eve"}])
    module = data(path, min_reference_s=0.5)
    module.setup("fit")
    dataset = module.dataset("train").parts[0]
    with caplog.at_level(logging.WARNING, "avsync.data"):
        clips = [dataset[SampleKey(k, position)] for position in range(2) for k in range(4)]
    assert all(clip.reference is not None and clip.reference_length == 0 for clip in clips)
    assert dataset.voices.without_count == 4
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"no reference for {k}; {n} of 4 recordings without one so far" for k, n in ((0, 1), (1, 2), (3, 4))
    ]
    strict = data(path, min_reference_s=0.5, missing_references="error")
    strict.setup("fit")
    with pytest.raises(
        InputError, match=r"2 has no reference: no speaker is named, and its recording has no 0\.5 s outside the clip"
    ):
        strict.dataset("train").parts[0][SampleKey(2, 0)]
    with pytest.raises(InputError, match=r"4 has no reference: nothing else is said by eve, and its recording has no"):
        strict.dataset("val").parts[0][0]
