"""Sets as they are published: which files belong to which rows, which split they are in, and what is wrong named."""

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.captioned_sounds import AudioCaps, Clotho, WavCaps
from datamodules.people_videos import Emilia, OpenHumanVid, SpeakerVid
from datamodules.reading.order import SampleKey
from datamodules.speech_clips import DescribedClips
from datamodules.vggsound import VGGSound
from tests.public_folders.speech import RATE, heard, write_speech

CLIP = ClipShape(num_frames=25, fps=25, height=16, width=16, sample_rate=RATE)
SMALL: dict[str, Any] = {"clip": CLIP, "num_workers": 0, "batch_size": 2, "val_batch_size": 1}


def write_rows(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def listed(data: DescribedClips, split: str) -> dict[str, str]:
    """Captions by id."""
    return {record.id: record.caption for record in data.records(split)}  # type: ignore[arg-type]


def captions_in_training(data: DescribedClips) -> set[str]:
    data.setup("fit")
    dataset = data.dataset("train").parts[0]
    drawn = [dataset[SampleKey(0, position)].caption for position in range(40)]
    assert drawn[:5] == [dataset[SampleKey(0, position)].caption for position in range(5)]
    return set(drawn)


@pytest.fixture(scope="module")
def vggsound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("VGGSound")
    rows = [
        ("---g-f_I2yQ", 1, "people marching", "test"),
        ("_abc-DEF123", 30, "dog barking, howling", "train"),
        ("_abc-DEF123", 70, "dog barking, howling", "train"),
        ("0123456789a", 5, "rain", "train"),
        ("gone4567890", 5, "thunder", "train"),
    ]
    write_rows(root / "vggsound.csv", rows)
    names = ("---g-f_I2yQ_000001", "_abc-DEF123_30000_40000", "_abc-DEF123_000070", "0123456789a_5")
    for index, name in enumerate(names):
        write_speech(root / "video" / f"{name}.mp4", 0, index, seconds=1.2)
    write_speech(root / "audio" / "_abc-DEF123_000070.wav", 1, 0, seconds=1.2)
    return root


def test_vggsound(vggsound: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = VGGSound(str(vggsound), **SMALL)
    with caplog.at_level(logging.WARNING, "avsync.data"):
        assert listed(data, "train") == {
            "_abc-DEF123_000030": "dog barking, howling",
            "_abc-DEF123_000070": "dog barking, howling",
            "0123456789a_000005": "rain",
        }
    assert "vggsound.csv lists 5 files of which 1 are not below" in caplog.text
    assert listed(data, "test") == listed(data, "val") == {"---g-f_I2yQ_000001": "people marching"}
    assert [record.video_id for record in data.records("train")] == ["_abc-DEF123"] * 2 + ["0123456789a"]
    data.setup("fit")
    clip = data.dataset("train").parts[0][SampleKey(1, 0)]
    assert clip.video.shape == (25, 3, 16, 16) and heard(clip.audio) == (0, 2)
    sound = VGGSound(str(vggsound), audio_only=True, caption="the sound of {label}", **SMALL)
    sound.setup("fit")
    clip = sound.dataset("train").parts[0][SampleKey(1, 0)]
    assert heard(clip.audio) == (1, 0) and clip.caption == "the sound of dog barking, howling"


def test_what_is_wrong_in_vggsound_is_named(vggsound: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no media file named gone4567890_000005 or gone4567890_5000_15000 or"):
        VGGSound(str(vggsound), missing_files="error", **SMALL).records("train")
    with pytest.raises(InputError, match=r"caption is 'a sound'; it must have \{label\}"):
        VGGSound(str(vggsound), caption="a sound", **SMALL)
    with pytest.raises(InputError, match="missing_files is 'drop'; choose from skip and error"):
        VGGSound(str(vggsound), missing_files="drop", **SMALL).records("train")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"nowhere does not exist; set root to the unpacked folder"):
        VGGSound(str(tmp_path / "nowhere"), **SMALL).records("train")
    with pytest.raises(InputError, match="holds no media files"):
        VGGSound(str(tmp_path), **SMALL).records("train")
    write_speech(tmp_path / "other.mp4", 0, 0, seconds=0.4)
    with pytest.raises(InputError, match=r"has no vggsound\.csv; put the published list there"):
        VGGSound(str(tmp_path), **SMALL).records("train")
    write_rows(tmp_path / "vggsound.csv", [("a", 1, "rain", "train"), ("b", "one", "rain", "train")])
    with pytest.raises(InputError, match=r"vggsound\.csv, line 2: b, one, rain, train; a line is <YouTube id>,"):
        VGGSound(str(tmp_path), **SMALL).records("train")
    write_rows(tmp_path / "vggsound.csv", [("a", 1, "rain", "train")])
    with pytest.raises(InputError, match=r"none of the 1 files that .*vggsound\.csv lists is below .* has other\.mp4"):
        VGGSound(str(tmp_path), **SMALL).records("train")
    write_rows(tmp_path / "vggsound.csv", [("a", 1, "rain")])
    with pytest.raises(InputError, match=r"line 1: 3 fields of id, start, label, split"):
        VGGSound(str(tmp_path), **SMALL).records("train")


def test_audiocaps(tmp_path: Path) -> None:
    header = ("audiocap_id", "youtube_id", "start_time", "caption")
    write_rows(tmp_path / "train.csv", [header, (11, "aaa", 30, "a dog, barking"), (12, "bbb", 0, "rain")])
    several = [(20 + k, "ccc", 60, f"caption {k}") for k in range(5)]
    write_rows(tmp_path / "dataset/test.csv", [header, *several])
    for index, name in enumerate(("aaa", "Ybbb", "22")):
        write_speech(tmp_path / "sounds" / f"{name}.wav", 0, index, seconds=1.2)
    data = AudioCaps(str(tmp_path), **SMALL)
    assert listed(data, "train") == {"aaa_30": "a dog, barking", "bbb_0": "rain"}
    assert listed(data, "val") == {"ccc_60": "caption 0"}
    data.setup("fit")
    assert [heard(data.dataset("train").parts[0][SampleKey(k, 0)].audio) for k in range(2)] == [(0, 0), (0, 1)]
    (batch,) = data.val_dataloader()
    assert heard(batch.audio[0]) == (0, 2) and list(batch.captions) == ["caption 0"]
    write_rows(tmp_path / "train.csv", [header, *several])
    assert captions_in_training(AudioCaps(str(tmp_path), **SMALL)) == {f"caption {k}" for k in range(5)}
    write_rows(tmp_path / "train.csv", [("id", "youtube_id", "start_time", "text")])
    with pytest.raises(InputError, match=r"train\.csv has no column audiocap_id, caption; it has id, youtube_id"):
        AudioCaps(str(tmp_path), **SMALL).records("train")
    write_rows(tmp_path / "train.csv", [header, (1, "aaa", "half", "x")])
    with pytest.raises(InputError, match=r"train\.csv, line 2: start_time is 'half'; it must be a second"):
        AudioCaps(str(tmp_path), **SMALL).records("train")
    (tmp_path / "train.csv").unlink()
    with pytest.raises(InputError, match=r"has no train\.csv and no dataset/train\.csv"):
        AudioCaps(str(tmp_path), **SMALL).records("train")


def test_clotho(tmp_path: Path) -> None:
    header = ("file_name", *(f"caption_{k}" for k in range(1, 6)))
    for index, part in enumerate(("development", "validation", "evaluation")):
        row = ("Rain on a roof.wav", *(f"{part} {k}" for k in range(1, 6)))
        write_rows(tmp_path / f"clotho_captions_{part}.csv", [header, row])
        write_speech(tmp_path / "audio" / part / "Rain on a roof.wav", 0, index, seconds=1.2)
    data = Clotho(str(tmp_path), **SMALL)
    for split, part, index in (("train", "development", 0), ("val", "validation", 1), ("test", "evaluation", 2)):
        assert listed(data, split) == {f"{part}/Rain on a roof": f"{part} 1"}
        data.setup({"train": "fit", "val": "fit", "test": "test"}[split])
        assert heard(data.dataset(split).parts[0][0].audio) == (0, index)  # type: ignore[index]
    assert captions_in_training(data) == {f"development {k}" for k in range(1, 6)}
    with pytest.raises(InputError, match="audio_only is false, but Clotho has no pictures"):
        Clotho(str(tmp_path), audio_only=False, **SMALL)
    (tmp_path / "audio/validation/Rain on a roof.wav").unlink()
    with pytest.raises(InputError, match=r"named Rain on a roof \(with any suffix\) in a folder validation"):
        Clotho(str(tmp_path), **SMALL).records("train")


def test_wavcaps(tmp_path: Path) -> None:
    sources = {
        "SoundBible": [{"id": str(k), "caption": f"bell {k}", "duration": 1.2} for k in range(4)],
        "AudioSet_SL": [{"id": f"Yabc{k}.wav", "caption": f"rain {k}", "audio": "wav_path"} for k in range(4)],
    }
    write_json(tmp_path / "json_files/SoundBible/sb_final.json", sources["SoundBible"])  # bare, or under "data"
    write_json(tmp_path / "json_files/AudioSet_SL/as_final.json", {"num": 4, "data": sources["AudioSet_SL"]})
    names = {"AudioSet": ["Yabc1.wav"], "FreeSound": ["3"], "mine": ["2"]}
    write_json(tmp_path / "json_files/blacklist/mine.json", names)
    for source, items in sources.items():
        for index, item in enumerate(items):
            name = str(item["id"]).removesuffix(".wav")
            write_speech(tmp_path / "audio" / source / f"{name}.wav", 0, index, seconds=1.2)
    data = WavCaps(str(tmp_path), hold_out=0.25, **SMALL)
    train, test = listed(data, "train"), listed(data, "test")
    assert len(train) + len(test) == 8 and train and test
    assert (train | test)["AudioSet_SL/Yabc2"] == "rain 2" and (train | test)["SoundBible/3"] == "bell 3"
    assert listed(WavCaps(str(tmp_path), hold_out=0.25, split_seed=1, **SMALL), "test") != test
    blacklist = str(tmp_path / "json_files/blacklist/mine.json")
    left = WavCaps(str(tmp_path), blacklist=blacklist, hold_out=0.25, **SMALL)
    assert {*listed(left, "train"), *listed(left, "test")} == {*train, *test} - {"AudioSet_SL/Yabc1", "SoundBible/2"}
    one = WavCaps(str(tmp_path), sources=["SoundBible"], hold_out=0.25, **SMALL)
    assert len(listed(one, "train")) + len(listed(one, "test")) == 4
    one.setup("fit")
    assert heard(one.dataset("val").parts[0][0].audio)[0] == 0
    with pytest.raises(InputError, match="sources names 'Freesound'; choose from AudioSet_SL, BBC_Sound_Effects,"):
        WavCaps(str(tmp_path), sources=["Freesound"], **SMALL)
    with pytest.raises(InputError, match=r"FreeSound has 0 files \*_final\.json"):
        WavCaps(str(tmp_path), sources=["FreeSound"], **SMALL).records("train")
    with pytest.raises(InputError, match=r"hold_out is 1\.5; it must lie between 0 and 1"):
        WavCaps(str(tmp_path), hold_out=1.5, **SMALL).records("train")
    write_json(tmp_path / "json_files/SoundBible/sb_final.json", [{"id": "1", "text": "bell"}])
    with pytest.raises(InputError, match=r"sb_final\.json, entry 1: no id or caption; it has id, text"):
        WavCaps(str(tmp_path), **SMALL).records("train")
    write_json(tmp_path / "json_files/SoundBible/sb_final.json", {"rows": []})
    with pytest.raises(InputError, match=r"sb_final\.json holds no list of entries, bare or under 'data'"):
        WavCaps(str(tmp_path), **SMALL).records("train")


def test_wavcaps_knows_sounds_of_two_sources_apart_that_have_one_number(tmp_path: Path) -> None:
    for source, folder, numbers in (("FreeSound", "FreeSound_flac", (7, 8)), ("SoundBible", "SoundBible_flac", (7, 9))):
        items = [{"id": str(number), "caption": f"{source} {number}"} for number in (7, 8, 9)]
        write_json(tmp_path / f"json_files/{source}/{source}_final.json", items)
        for number in numbers:
            write_speech(tmp_path / folder / f"{number}.wav", number, 0, seconds=1.2)
    data = WavCaps(str(tmp_path), hold_out=0.25, **SMALL)
    found = {record.id: record.path for split in ("train", "test") for record in data.records(split)}
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "FreeSound/7": "FreeSound_flac/7.wav",
        "FreeSound/8": "FreeSound_flac/8.wav",
        "SoundBible/7": "SoundBible_flac/7.wav",
        "SoundBible/9": "SoundBible_flac/9.wav",
    }


def emilia_item(speaker: int, index: int, **more: object) -> dict[str, object]:
    voice = f"EN_B00000_S{speaker:05d}"
    name = f"{voice}_W{index:06d}"
    item = {"id": name, "wav": f"EN_B00000/{voice}/mp3/{name}.mp3", "text": f" words {index}.", "duration": 1.2}
    return {**item, "speaker": voice, "language": "en", "dnsmos": 3.0 + 0.1 * speaker, **more}


@pytest.mark.parametrize("form", ["pairs", "lists"])
def test_emilia(tmp_path: Path, form: str) -> None:
    items = [emilia_item(speaker, index) for speaker in range(3) for index in range(2)]
    items.append(emilia_item(3, 0, language="de"))
    for item in items:
        file = tmp_path / (str(item["wav"]) if form == "lists" else f"EN/EN-B000000/{item['id']}.mp3")
        speaker, index = (int(part[1:]) for part in str(item["id"]).split("_")[2:])
        write_speech(file.with_suffix(".wav"), speaker, index, seconds=1.2)  # the reader takes any suffix
        if form == "pairs":
            write_json(file.with_suffix(".json"), item)
    if form == "lists":
        (tmp_path / "EN_B00000.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    data = Emilia(str(tmp_path), languages=["en"], hold_out=0.2, reference_s=0.5, **SMALL)
    train, test = data.records("train"), data.records("test")
    assert {record.speaker for record in train} & {record.speaker for record in test} == set()
    assert len(train) == 4 and len(test) == 2
    assert {record.transcript for record in train} == {"words 0.", "words 1."}
    data.setup("fit")
    for item, record in enumerate(train):
        clip = data.dataset("train").parts[0][SampleKey(item, item)]
        speaker, index = (int(part[1:]) for part in record.id.split("_")[2:])
        assert clip.transcript == f"words {index}." and heard(clip.audio) == (speaker, index)
        assert clip.reference is not None and heard(clip.reference) == (speaker, 1 - index)
    assert all(record.video_id == record.speaker for record in data.records("train"))  # one recording each
    good = Emilia(str(tmp_path), min_dnsmos=3.15, hold_out=0.2, **SMALL)
    assert {record.speaker for split in ("train", "test") for record in good.records(split)} == {
        "EN_B00000_S00002",
        "EN_B00000_S00003",
    }
    with pytest.raises(InputError, match="has no clips of the languages and quality asked for"):
        Emilia(str(tmp_path), languages=["fr"], **SMALL).records("train")
    with pytest.raises(InputError, match="audio_only is false, but Emilia has no pictures"):
        Emilia(str(tmp_path), audio_only=False, **SMALL)


def test_what_is_wrong_in_emilia_is_named(tmp_path: Path) -> None:
    write_speech(tmp_path / "a.wav", 0, 0, seconds=0.4)
    with pytest.raises(InputError, match=r"has neither \.json files nor \.jsonl lists; unpack Emilia's tar files"):
        Emilia(str(tmp_path), **SMALL).records("train")
    write_json(tmp_path / "a.json", {"id": "a", "transcript": "x"})
    with pytest.raises(InputError, match=r"a\.json has no text and no speaker; it has id, transcript"):
        Emilia(str(tmp_path), **SMALL).records("train")
    write_json(tmp_path / "a.json", {"id": "a", "text": "x", "speaker": "s"})
    with pytest.raises(InputError, match=r"a\.json has no number dnsmos, so min_dnsmos cannot be held"):
        Emilia(str(tmp_path), min_dnsmos=3.0, **SMALL).records("train")
    with pytest.raises(InputError, match="the 1 clips found are of 1 group and cannot be divided"):
        Emilia(str(tmp_path), **SMALL).records("train")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        Emilia(str(tmp_path), **SMALL).records("train")


def test_openhumanvid(tmp_path: Path) -> None:
    names = [f"{source}_{first:06d}_{first + 90:06d}" for source in ("aa11", "bb22", "cc33") for first in (100, 900)]
    for index, name in enumerate(names):
        write_speech(tmp_path / "videos" / f"{name}.mp4", 0, index % 4, seconds=1.2)
    rows = [(f"videos/{name}.mp4", f"a man, {index}") for index, name in enumerate(names)]
    write_rows(tmp_path / "list.csv", [("path", "caption"), *rows])
    data = OpenHumanVid(str(tmp_path), hold_out=0.2, **SMALL)
    train, test = data.records("train"), data.records("test")
    assert len(train) == 4 and len({record.video_id for record in test}) == 1
    assert {record.id: record.caption for record in (*train, *test)} == {n: f"a man, {k}" for k, n in enumerate(names)}
    data.setup("fit")
    assert data.dataset("train").parts[0][SampleKey(0, 0)].video.shape == (25, 3, 16, 16)
    write_rows(tmp_path / "list.csv", [("clip", "llama_caption"), *rows])
    with pytest.raises(
        InputError, match=r"no column that is known to be the video; it has clip, llama_caption: name one in columns"
    ):
        OpenHumanVid(str(tmp_path), **SMALL).records("train")
    columns = {"video": "clip", "caption": "llama_caption"}
    assert len(OpenHumanVid(str(tmp_path), columns=columns, hold_out=0.2, **SMALL).records("train")) == 4
    with pytest.raises(InputError, match="columns names 'text'; choose from video, caption"):
        OpenHumanVid(str(tmp_path), columns={"text": "llama_caption"}, **SMALL)
    write_rows(tmp_path / "other.csv", [("path", "caption"), *rows])
    with pytest.raises(InputError, match="holds 2 CSV files; put the published list there, or name it in listing"):
        OpenHumanVid(str(tmp_path), **SMALL).records("train")
    assert len(OpenHumanVid(str(tmp_path), listing="other.csv", hold_out=0.2, **SMALL).records("train")) == 4


def test_speakervid(tmp_path: Path) -> None:
    videos = ("abcdefghij0", "abcdefghij1", "abcdefghij2")
    clips = {video: [f"{video}_0_{index}_1.json" for index in range(2)] for video in videos}
    write_json(tmp_path / "all_data_list.json", clips)
    for video in videos:
        for index in range(2):
            write_speech(tmp_path / "clips" / f"{video}_0_{index}_1.mp4", int(video[-1]), index, seconds=1.2)
            write_json(tmp_path / f"raw_labels/asr/{video}_0_{index}.json", {"text": f" words {index}"})
    write_json(tmp_path / "raw_labels/anno/abcdefghij0_0_0_1.json", {"summary": "a man at a desk"})
    settings: dict[str, Any] = {"hold_out": 0.2, "speaker_pattern": r"(.{11})_.*", **SMALL}
    data = SpeakerVid(str(tmp_path), keys={"transcript": "text", "caption": "summary"}, **settings)
    found = {record.id: record for split in ("train", "test") for record in data.records(split)}  # type: ignore[arg-type]
    assert len(found) == 6 and len(data.records("test")) == 2
    record = found["abcdefghij0_0_0_1"]
    assert (record.caption, record.transcript, record.speaker) == ("a man at a desk", "words 0", "abcdefghij0")
    assert found["abcdefghij1_0_1_1"].caption == "a person is speaking"
    bare = SpeakerVid(str(tmp_path), hold_out=0.2, **SMALL).records("train")[0]
    assert (bare.transcript, bare.speaker) == (None, None)
    with pytest.raises(InputError, match=r"_0_0\.json has no text 'words'; it has text: name another field in keys"):
        SpeakerVid(str(tmp_path), keys={"transcript": "words"}, **SMALL).records("train")
    with pytest.raises(InputError, match=r"speaker_pattern 'x' has no group"):
        SpeakerVid(str(tmp_path), speaker_pattern="x", **SMALL)
    write_json(tmp_path / "all_data_list.json", ["a.json"])
    with pytest.raises(InputError, match="is not as published, an object of lists of clip names by video"):
        SpeakerVid(str(tmp_path), **SMALL).records("train")
