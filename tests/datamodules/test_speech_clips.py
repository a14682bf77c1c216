"""Speech with its references and transcripts, out of every layout, on real files."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from components.errors import InputError
from datamodules.reading.clip_data_module import ClipDataModule
from datamodules.reading.order import ConsumedSampler, SampleKey
from datamodules.speech_clips import SpeechClips
from tests.datamodules.conftest import clip_of
from tests.public_folders.speech import RATE, heard, utterance, write_speech


def data(root: Path, **more: Any) -> SpeechClips:
    clip = clip_of(more, num_frames=25, fps=25.0, height=16, width=16, sample_rate=RATE)
    small = {"num_workers": 0, "seed": 3}
    return SpeechClips(
        str(root), clip=clip, **{**small, "batch_size": 2, "val_batch_size": 2, "reference_s": 1.5, **more}
    )


def manifest(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speaker 0 with four clips, 1 with two, 2 with one; evaluation has a pair of 3 and a clip of no known speaker."""
    folder = tmp_path_factory.mktemp("speech")
    rows = []
    for split, speaker, count in (("train", 0, 4), ("train", 1, 2), ("train", 2, 1), ("test", 3, 2), ("test", 4, 1)):
        for index in range(count):
            name = f"s{speaker}_{index}"
            # every second clip has its sound in a file of its own, beside a mute picture
            apart = index % 2 == 1
            write_speech(folder / "clips" / f"{name}.mp4", speaker, index, seconds=2.0, sound=not apart)
            row = {"id": name, "video": f"clips/{name}.mp4", "split": split, "speaker": f"speaker {speaker}"}
            if apart:
                write_speech(folder / "clips" / f"{name}.wav", speaker, index, seconds=2.0)
                row["audio"] = f"clips/{name}.wav"
            if speaker == 4:
                del row["speaker"]
            rows.append(row)
    return manifest(folder, rows)


def test_references_are_other_utterances_of_the_same_voice(corpus: Path) -> None:
    module = data(corpus)
    module.setup("fit")
    batches = iter(module.train_dataloader())
    met: dict[str, set[int]] = {}
    for _ in range(30):
        batch = next(batches)
        assert batch.reference_audio is not None
        assert batch.reference_lengths is not None
        assert batch.reference_audio.shape == (2, round(1.5 * RATE))
        assert batch.reference_lengths.dtype == torch.int64
        for k, name in enumerate(batch.ids):
            speaker, index = map(int, name.split("@")[0].removeprefix("s").split("_"))
            assert heard(batch.audio[k]) == (speaker, index)
            if speaker == 2:
                assert batch.reference_lengths[k] == 0
                assert not batch.reference_audio[k].any()
                continue
            assert batch.reference_lengths[k] == round(1.5 * RATE)
            voice, other = heard(batch.reference_audio[k])
            assert voice == speaker
            assert other != index
            met.setdefault(name.split("@")[0], set()).add(other)
    assert met["s0_0"] == {1, 2, 3}
    assert met["s1_0"] == {1}


def test_evaluation_takes_the_next_utterance_from_its_beginning(corpus: Path) -> None:
    module = data(corpus, val_batch_size=3)
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert list(batch.ids) == ["s3_0", "s3_1", "s4_0"]
    assert batch.reference_audio is not None
    assert batch.reference_lengths is not None
    assert batch.reference_lengths.tolist() == [24000, 24000, 0]
    for k, index in ((0, 1), (1, 0)):
        assert (batch.reference_audio[k] - utterance(3, index, 1.5)).abs().max() < 0.03
    assert (batch.transcripts, batch.onsets) == (None, None)
    again = next(iter(module.test_dataloader()))
    assert torch.equal(again.reference_audio, batch.reference_audio)
    # what max_val_clips leaves out can still be heard as a reference
    one = data(corpus, max_val_clips=1)
    one.setup("test")
    assert torch.equal(next(iter(one.test_dataloader())).reference_audio[0], batch.reference_audio[0])
    moved = batch.to("cpu")
    assert torch.equal(moved.reference_lengths, batch.reference_lengths)


def test_a_sample_is_the_same_on_any_rank_in_any_worker(corpus: Path) -> None:
    module = data(corpus)
    module.setup("fit")
    dataset = module.dataset("train").parts[0]
    keys = [key for key, _ in zip(ConsumedSampler(len(dataset), 3), range(12), strict=False)]
    first = [dataset[key] for key in keys]
    for rank in range(2):
        share = ConsumedSampler(len(dataset), 3, rank, 2)
        for clip, key in zip(first[rank::2], share, strict=False):
            same = dataset[key]
            assert same.id == clip.id
            assert torch.equal(same.reference, clip.reference)
    workers = data(corpus, num_workers=2)
    workers.setup("fit")
    loaded = iter(workers.train_dataloader())
    for start in range(0, 6, 2):
        batch = next(loaded)
        assert list(batch.ids) == [clip.id for clip in first[start : start + 2]]
        assert torch.equal(batch.reference_audio, torch.stack([clip.reference for clip in first[start : start + 2]]))
    other = data(corpus, seed=4)
    other.setup("fit")
    assert any(
        not torch.equal(other.dataset("train").parts[0][key].reference, clip.reference)
        for key, clip in zip(keys, first, strict=True)
    )


def test_own_references_are_pieces_of_the_clip_of_random_length_and_place(corpus: Path) -> None:
    """Harmony's stage 1. The clip's own sound, sample by sample, and nothing of its other seconds."""
    module = data(corpus, reference="own", reference_s=0.6, min_reference_s=0.2)
    module.setup("fit")
    dataset = module.dataset("train").parts[0]
    lengths, places = set(), set()
    for position in range(40):
        clip = dataset[SampleKey(position % 7, position)]
        assert clip.reference is not None and clip.reference.shape == (round(0.6 * RATE),)
        length = clip.reference_length
        assert round(0.2 * RATE) <= length <= round(0.6 * RATE)
        piece, rest = clip.reference[:length], clip.reference[length:]
        assert not rest.any()
        where = int((clip.audio.unfold(0, 64, 1) - piece[:64]).abs().amax(dim=1).argmin())
        assert torch.equal(clip.audio[where : where + length], piece)
        lengths.add(length)
        places.add(where)
        again = dataset[SampleKey(position % 7, position)]
        assert again.reference is not None and torch.equal(again.reference, clip.reference)
    assert len(lengths) > 30 and len(places) > 30
    assert max(lengths) - min(lengths) > 0.3 * RATE


def test_own_references_of_evaluation_are_the_clips_beginning(corpus: Path) -> None:
    module = data(corpus, reference="own", reference_s=0.6, min_reference_s=0.2)
    module.setup("validate")
    for batch in module.val_dataloader():
        assert batch.reference_audio is not None and batch.reference_lengths is not None
        assert torch.equal(batch.reference_audio, batch.audio[:, : round(0.6 * RATE)])
        assert set(batch.reference_lengths.tolist()) == {round(0.6 * RATE)}


def test_own_references_do_not_reach_into_the_silence_behind_a_short_sound(tmp_path: Path) -> None:
    write_speech(tmp_path / "a.wav", 0, 0, seconds=0.4)
    rows = manifest(tmp_path, [{"id": split, "audio": "a.wav", "split": split} for split in ("train", "test")])
    module = data(rows, reference="own", reference_s=0.9, min_reference_s=0.6, audio_only=True, pad_audio=True)
    module.setup("fit")
    for position in range(5):
        clip = module.dataset("train").parts[0][SampleKey(0, position)]
        assert clip.reference is not None and clip.reference_length == round(0.4 * RATE)  # all there is
        assert torch.equal(clip.reference, clip.audio[: round(0.9 * RATE)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reference": "speaker"}, "reference is 'speaker'; choose from voice and own"),
        ({"reference": "own", "min_reference_s": 2.0}, "min_reference_s is 2.0; it must lie between 0 and reference_s"),
        (
            {"reference_s": None, "min_reference_s": 1.0},
            r"min_reference_s is 1\.0; it must lie between .*\(None\)",
        ),
        ({"missing_references": "drop"}, "missing_references is 'drop'; choose from none and error"),
    ],
)
def test_impossible_references_are_named(corpus: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data(corpus, **wrong)


def test_without_a_slot_there_are_no_references(corpus: Path) -> None:
    module = data(corpus, reference_s=None)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.reference_audio is None
    assert batch.reference_lengths is None


def test_short_references_are_padded_and_long_ones_cut_or_refused(corpus: Path) -> None:
    module = data(corpus, reference_s=3.0)
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert batch.reference_lengths[0] == pytest.approx(2 * RATE, abs=2048)
    assert (batch.reference_audio[0, : 2 * RATE - 100] - utterance(3, 1, 2.0)[:-100]).abs().max() < 0.03
    assert not batch.reference_audio[0, batch.reference_lengths[0] :].any()
    strict = data(corpus, long_references="error")
    strict.setup("test")
    with pytest.raises(InputError, match=r"s3_1\.wav lasts 2\.000 s, longer than reference_s = 1\.500; lengthen"):
        next(iter(strict.test_dataloader()))
    strict = data(corpus, long_references="error", reference_s=2.0)
    strict.setup("test")
    assert len(list(strict.test_dataloader())) == 2


def test_training_cuts_long_references_at_random(tmp_path: Path) -> None:
    """The phase of the tone tells where it was cut."""
    for index in range(2):
        write_speech(tmp_path / f"{index}.wav", 0, index, seconds=4.0)
    rows = [
        {"id": str(k), "audio": f"{k}.wav", "speaker": "a", "split": split} for k, split in enumerate(["train"] * 2)
    ]
    module = data(
        manifest(tmp_path, [*rows, {**rows[0], "id": "t", "split": "test"}]), audio_only=True, reference_s=1.01
    )
    module.setup("fit")
    dataset = module.dataset("train").parts[0]
    whole = utterance(0, 1, 4.0)
    starts = set()
    for position in range(12):
        reference = dataset[SampleKey(0, position)].reference
        error = (whole.unfold(0, len(reference), 1)[: RATE // 125 * 2] - reference).abs().amax(dim=1)
        assert error.min() < 0.05
        starts.add(int(error.argmin()))
    assert len(starts) > 3


def test_a_reference_named_in_the_row_goes_first(corpus: Path, tmp_path: Path) -> None:
    write_speech(tmp_path / "voice.wav", 6, 2, seconds=2.0)
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    for row in rows:
        row.update({name: str(corpus.parent / row[name]) for name in ("video", "audio") if name in row})
        row["reference_audio"] = "voice.wav"
    module = data(manifest(tmp_path, rows))
    module.setup("fit")
    for batch in (next(iter(module.train_dataloader())), *module.val_dataloader()):
        assert all(heard(reference) == (6, 2) for reference in batch.reference_audio)


def test_the_same_seconds_are_no_other_utterance(tmp_path: Path) -> None:
    write_speech(tmp_path / "long.mp4", 0, 3, seconds=6.0)
    spans = {"a": (0.0, 2.0), "b": (1.0, 3.0), "c": (3.0, 5.0)}
    rows = [
        {"id": k, "video": "long.mp4", "start": s, "end": e, "speaker": "x", "split": "test", "transcript": "ho"}
        for k, (s, e) in spans.items()
    ]
    module = data(manifest(tmp_path, rows[:2]), partial_transcripts="keep")
    module.setup("test")
    assert [clip.reference_length for clip in (module.dataset("test").parts[0][k] for k in range(2))] == [0, 0]
    module = data(manifest(tmp_path, rows), reference_s=4.0, partial_transcripts="keep")
    module.setup("test")
    lengths = [module.dataset("test").parts[0][k].reference_length for k in range(3)]
    assert lengths == pytest.approx([2 * RATE] * 3, abs=2)  # a and b hear c, c hears a


def test_clips_stay_in_their_rows_span_and_onsets_follow(tmp_path: Path) -> None:
    write_speech(tmp_path / "long.mp4", 0, 3, seconds=2.4)
    row = {"id": "a", "video": "long.mp4", "start": 0.6, "end": 2.0, "onsets": [0.7, 1.1, 1.5, 2.2], "transcript": "ho"}
    path = manifest(tmp_path, [{**row, "split": "train"}, {**row, "id": "b", "split": "test"}])
    for cache in (False, True):
        module = data(path, reference_s=None, cache=cache)
        module.setup("fit")
        starts = []
        for position in range(30):
            clip = module.dataset("train").parts[0][SampleKey(0, position)]
            start = float(clip.id.split("@")[1])
            starts.append(start)
            assert round(float(clip.video[0].float().mean()) / 4) == int(start * 25 + 0.02)
            assert clip.onsets == pytest.approx([t - start for t in row["onsets"] if start <= t < start + 1], abs=1e-3)
        assert 0.6 <= min(starts) < 0.7
        assert 0.9 < max(starts) <= 1.0
    clip = module.dataset("val").parts[0][0]
    assert clip.transcript == "ho"
    assert round(float(clip.video[0].float().mean()) / 4) == 20  # the centre of 0.6..2.0 s: 0.8..1.8 s
    short = data(manifest(tmp_path, [{**row, "start": 1.2, "split": "test"}]))
    short.setup("test")
    with pytest.raises(
        InputError,
        match=r"long\.mp4 has 0\.800 s to offer for a between 1\.200 s and 2\.000 s, less than a clip's 1\.000",
    ):
        short.dataset("test").parts[0][0]


def test_transcripts(tmp_path: Path) -> None:
    write_speech(tmp_path / "a.mp4", 0, 3, seconds=1.4)
    write_speech(tmp_path / "b.mp4", 0, 3, seconds=1.0)
    write_speech(tmp_path / "c.mp4", 0, 3, seconds=2.0)
    rows = [{"id": k, "video": f"{k}.mp4", "split": "test", "transcript": k.upper()} for k in "abc"]
    del rows[1]["transcript"]
    module = data(manifest(tmp_path, rows[:2]))
    module.setup("test")
    assert next(iter(module.test_dataloader())).transcripts == ["A", ""]
    for policy, transcript in (("keep", "C"), ("drop", "")):
        module = data(manifest(tmp_path, rows), partial_transcripts=policy, val_batch_size=3)
        module.setup("test")
        assert next(iter(module.test_dataloader())).transcripts == ["A", "", transcript]
    module = data(manifest(tmp_path, rows))
    module.setup("test")
    with pytest.raises(InputError, match=r"c lasts 2\.0\d\d s, a clip 1\.000 s, so its transcript says more than is"):
        list(module.test_dataloader())


def test_sound_alone(corpus: Path, tmp_path: Path) -> None:
    """Wav files, video files and both, of any length if silence may follow."""
    write_speech(tmp_path / "a.wav", 1, 0, seconds=2.0)
    write_speech(tmp_path / "b.mp4", 1, 1, seconds=2.0)
    write_speech(tmp_path / "c.wav", 1, 2, seconds=0.6)
    rows = [
        {"id": k, "split": split, "speaker": "x"} for split, k in zip(("train", "test", "test"), "abc", strict=True)
    ]
    rows[0]["audio"], rows[1]["video"], rows[2]["audio"] = "a.wav", "b.mp4", "c.wav"
    path = manifest(tmp_path, rows)
    for cache in (False, True):
        module = data(path, audio_only=True, pad_audio=True, cache=cache)
        module.setup("fit")
        batch = next(iter(module.train_dataloader()))
        assert batch.video.shape == (2, 0, 3, 16, 16)
        assert batch.video.dtype == torch.uint8
        assert batch.audio.shape == (2, RATE)
        assert heard(batch.audio[0]) == (1, 0)
        whole = utterance(1, 0, 2.0)
        start = round(float(batch.ids[0].split("@")[1]) * RATE)
        nearby = whole[max(0, start - 16) :].unfold(0, RATE, 1)[:33]  # the name rounds to milliseconds
        assert (nearby - batch.audio[0]).abs().amax(dim=1).min() < 0.02
        batch = next(iter(module.val_dataloader()))
        assert heard(batch.audio[0]) == (1, 1)
        assert (batch.audio[1, :9600] - utterance(1, 2, 0.6)).abs().max() < 1e-3
        assert not batch.audio[1, 9600:].any()
    strict = data(path, audio_only=True)
    strict.setup("test")
    with pytest.raises(InputError, match=r"c\.wav lacks 0\.400 s of sound"):
        next(iter(strict.test_dataloader()))
    with pytest.raises(InputError, match=r"set\.jsonl, line 1: the row \(a\) has no video"):
        data(path).setup("fit")


def test_hdtf(tmp_path: Path) -> None:
    """The public mirror's lists of clips or of whole videos; several clips of one session share a speaker."""
    names = ["WDA_AnnaLee_000_0_80", "WDA_AnnaLee_000_90_170", "WDA_AnnaLee_001_0_80", "RD_Radio1_000_0_80"]
    for k, name in enumerate(names):
        write_speech(tmp_path / "clips" / f"{name}.mp4", 0, k, seconds=1.6)
    (tmp_path / "metadata.csv").write_text("anything\n")
    (tmp_path / "train.txt").write_text(f"WDA_AnnaLee_000\nclips/{names[2]}.mp4\n")
    (tmp_path / "test.txt").write_text(f"{names[3]}\n")
    module = data(tmp_path)
    assert [record.id for record in module.records("train")] == names[:3]
    assert {(r.speaker, r.video_id) for r in module.records("train")} == {("WDA_AnnaLee", "WDA_AnnaLee")}
    assert [(r.id, r.speaker, r.caption) for r in module.records("val")] == [
        (names[3], "RD_Radio1", "a person is speaking")
    ]
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.reference_lengths.tolist() == [24000, 24000]
    (tmp_path / "val.txt").write_text("WDA_Nobody_000.mp4\n")
    with pytest.raises(InputError, match=r"val\.txt lists WDA_Nobody_000\.mp4 but .*clips has no WDA_Nobody_000\.mp4"):
        data(tmp_path).setup("fit")
    (tmp_path / "val.txt").write_text("\n")
    with pytest.raises(InputError, match=r"val\.txt is empty"):
        data(tmp_path).setup("fit")


def test_bare_clips_are_dealt_out_by_speaker(tmp_path: Path) -> None:
    for speaker in range(4):
        for index in range(2):
            write_speech(tmp_path / f"talk{speaker}_{index}.mp4", speaker, index, seconds=1.2)
    module = data(tmp_path, hold_out_every=2)
    assert {record.speaker for record in module.records("train")} == {"talk0", "talk2"}
    assert [record.id for record in module.records("test")] == ["talk1_0", "talk1_1", "talk3_0", "talk3_1"]
    with pytest.raises(InputError, match=r"does not say what to train on; give its rows a split or set hold_out_every"):
        data(tmp_path).records("train")
    with pytest.raises(InputError, match=r"hold_out_every is 9 but .* has 4 speakers, or recordings.*; lower it"):
        data(tmp_path, hold_out_every=9).records("train")
    own = data(tmp_path, hold_out_every=2, speaker_pattern=r"talk(\d).*")
    assert own.records("train")[0].speaker == "0"
    with pytest.raises(InputError, match=r"speaker_pattern 'talk' has no group"):
        data(tmp_path, speaker_pattern="talk").records("train")
    with pytest.raises(InputError, match=r"speaker_pattern '\(' is no regular expression"):
        data(tmp_path, speaker_pattern="(").records("train")


def test_pieces_of_one_recording_without_speaker_stay_together(tmp_path: Path) -> None:
    for name in "ab":
        write_speech(tmp_path / f"{name}.wav", 0, 0, seconds=4.0)
    rows = [
        {"id": f"{name}{k}", "audio": f"{name}.wav", "caption": "x", "start": k, "end": k + 1.2}
        for k in range(3)
        for name in "ab"
    ]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = data(tmp_path / "set.jsonl", hold_out_every=2, audio_only=True)
    assert {record.video_id for record in module.records("train")} == {"a.wav"}
    assert {record.video_id for record in module.records("test")} == {"b.wav"}


def test_voxceleb2(tmp_path: Path) -> None:
    """Mute pictures and sounds in folders of their own."""
    for part, speaker, number in (("dev", 0, 1), ("dev", 0, 2), ("test", 1, 1), ("test", 1, 2)):
        place = f"id{speaker:05d}/abc{number}/{number:05d}"
        write_speech(tmp_path / part / "mp4" / f"{place}.mp4", speaker, number, seconds=1.6, sound=number == 2)
        if number == 1:
            write_speech(tmp_path / part / "aac" / f"{place}.m4a", speaker, number, seconds=1.6)
    module = data(tmp_path)
    record = module.records("train")[0]
    assert (record.id, record.video_id, record.speaker) == ("id00000/abc1/00001", "id00000/abc1", "id00000")
    assert record.sound == tmp_path / "dev/aac/id00000/abc1/00001.m4a"
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert [heard(audio) for audio in batch.audio] == [(1, 1), (1, 2)]
    assert [heard(audio) for audio in batch.reference_audio] == [(1, 2), (1, 1)]
    alone = data(tmp_path, audio_only=True)
    alone.setup("test")
    assert [heard(audio) for audio in next(iter(alone.test_dataloader())).audio] == [(1, 1), (1, 2)]
    (tmp_path / "bare" / "dev").mkdir(parents=True)
    with pytest.raises(InputError, match=r"bare holds no clips; VoxCeleb2 has \{dev,test\}/mp4/"):
        data(tmp_path / "bare").records("train")


def test_unusable_references_end_the_run_or_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        write_speech(tmp_path / f"{index}.wav", 0, index, seconds=2.0)
    rows = [{"id": str(k), "audio": f"{k}.wav", "speaker": "x", "split": "test"} for k in range(3)]
    path = manifest(tmp_path, rows)
    (tmp_path / "1.wav").write_bytes(b"RIFF")
    strict = data(path, audio_only=True)
    strict.setup("test")
    with pytest.raises(InputError, match=r"1\.wav is corrupt, truncated or no media file"):
        strict.dataset("test").parts[0][0]
    module = data(path, audio_only=True, on_corrupt="skip", max_corrupt_fraction=0.5)
    module.setup("test")
    with caplog.at_level(logging.WARNING, "avsync.data"):
        clips = [module.dataset("test").parts[0][k] for k in (0, 0, 2)]
    assert [heard(clip.reference) for clip in clips] == [(0, 2), (0, 2), (0, 0)]
    assert caplog.text.count("skipped unusable reference: ") == 1
    (tmp_path / "2.wav").write_bytes(b"RIFF")
    module = data(path, audio_only=True, on_corrupt="skip", max_corrupt_fraction=0.5)
    module.setup("test")
    assert module.dataset("test").parts[0][0].reference_length == 0


def test_wrong_arguments(corpus: Path, tmp_path: Path) -> None:
    for more, message in (
        ({"reference_s": 0}, "reference_s is 0; it must be positive, or null"),
        ({"pad_audio": True}, "pad_audio is true but audio_only is not"),
        ({"hold_out_every": 1}, "hold_out_every is 1; it must be at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            data(corpus, **more)
    with pytest.raises(InputError, match=r"the manifest .*nowhere does not exist"):
        data(tmp_path / "nowhere").records("train")
    with pytest.raises(InputError, match="holds no mp4 clips; set root to a manifest, an HDTF or a VoxCeleb2 folder"):
        data(tmp_path).records("train")
    rows = [json.loads(line) for line in corpus.read_text().splitlines() if '"test"' not in line]
    for row in rows:
        row.update({name: str(corpus.parent / row[name]) for name in ("video", "audio") if name in row})
    with pytest.raises(
        InputError, match=r"set\.jsonl has nothing in the split val or test; give some of its rows that"
    ):
        data(manifest(tmp_path, rows)).setup("fit")


def test_every_argument_is_known_to_the_command_line(corpus: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClipDataModule, "data")
    options = {"root": corpus, "reference_s": 2.5, "long_references": "error", "audio_only": "true", "clip.fps": 12}
    parsed = parser.parse_args(
        ["--data=datamodules.speech_clips.SpeechClips", *(f"--data.{key}={item}" for key, item in options.items())]
    )
    module = parser.instantiate_classes(parsed).data
    assert isinstance(module, SpeechClips)
    assert (module.reference_s, module.long_references, module.audio_only) == (2.5, "error", True)
