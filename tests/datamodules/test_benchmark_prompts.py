"""Prompts of public benchmarks, through a real ``predict``."""

import csv
import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.clock import ClipShape
from components.media.lossless import write_lossless
from datamodules.benchmark_prompts import HarmonyBench, JavisBench, VerseBench, VerseBenchPrompts
from datamodules.prompt_clips import PromptClips

VOICE = 0.5 * torch.sin(torch.arange(32_000) * 0.05)
CLIP = ClipShape(num_frames=12, fps=12.0, height=16, width=16)


class Echo(L.LightningModule):
    def predict_step(self, batch: ClipBatch, index: int) -> ClipBatch:
        return batch


def predicted(data: L.LightningDataModule, folder: Path) -> list[ClipBatch]:
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, default_root_dir=folder)
    batches: list[ClipBatch] = trainer.predict(Echo(), datamodule=data)
    return batches


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((30, 50, 3), grey, np.uint8)).save(path)


@pytest.fixture
def verse(tmp_path: Path) -> Path:
    root = tmp_path / "verse_bench"
    items: dict[str, dict[str, Any]] = {
        "set1/00002": {"audio_prompt": ["a dog barks", "wind"], "speech_prompt": {"speaker": "", "text": ""}},
        "set1/00000": {"audio_prompt": ["a crowd"], "speech_prompt": {"speaker": "an old man", "text": "good day"}},
        "set3/00100": {"audio_prompt": [], "speech_prompt": {"speaker": "a girl", "text": "hello"}},
    }
    for index, (name, item) in enumerate(sorted(items.items())):
        picture(root / f"{name}.jpg", 60 * (index + 1))
        (root / f"{name}.json").write_text(json.dumps({"video_prompt": f"video {name}", "more": 1, **item}))
    return root


def test_verse_bench(verse: Path, tmp_path: Path) -> None:
    data = VerseBench(str(verse), sets=["set1", "set3"], clip=CLIP, batch_size=2)
    batches = predicted(data, tmp_path)
    assert [name for batch in batches for name in batch.ids] == ["00000", "00002", "00100"]
    assert [caption for batch in batches for caption in batch.captions] == [
        "video set1/00000",
        "video set1/00002",
        "video set3/00100",
    ]
    assert [scene for batch in batches for scene in batch.scenes or ()] == [
        "an old man, a crowd",
        "a dog barks, wind",
        "a girl",
    ]
    assert [words for batch in batches for words in batch.transcripts or ()] == ["good day", "", "hello"]
    assert batches[0].video.shape == (2, 1, 3, 16, 16)
    assert batches[0].video[1].float().mean() == pytest.approx(120, abs=2)
    (one,) = predicted(VerseBench(str(verse), sets=["set1"], max_clips=1, clip=CLIP), tmp_path)
    assert list(one.ids) == ["00000"]


def test_what_is_wrong_in_verse_bench_is_named(verse: Path) -> None:
    with pytest.raises(InputError, match="sets names 'set4'; choose from set1, set2, set3"):
        VerseBench(str(verse), sets=["set4"], clip=CLIP)
    with pytest.raises(InputError, match=r"set2 holds no \.json files; root must be the folder with set1, set2 and"):
        VerseBench(str(verse), clip=CLIP)
    with pytest.raises(InputError, match="max_clips is 0; it must be at least 1"):
        VerseBench(str(verse), sets=["set1"], max_clips=0, clip=CLIP)
    (verse / "set3/00100.jpg").unlink()
    with pytest.raises(InputError, match=r"set3 has no picture 00100 \(\.jpg, "):
        VerseBench(str(verse), sets=["set3"], clip=CLIP)
    (verse / "set3/00100.json").write_text(json.dumps({"prompt": "x", "audio_prompt": []}))
    with pytest.raises(InputError, match=r"00100\.json is not as released: .* it has prompt, audio_prompt"):
        VerseBench(str(verse), sets=["set3"], clip=CLIP)


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_javis_bench(tmp_path: Path) -> None:
    listing = tmp_path / "JavisBench-mini.csv"
    write_csv(
        listing,
        [("path", "text", "audio_text", "cat0_ind"), ("a", "a cat, meowing", "meows", "0"), ("b", "rain", "", "1")],
    )
    for index, suffix in enumerate((".png", ".jpg")):
        picture(tmp_path / "frames" / f"sample_{index:04d}{suffix}", 60 * (index + 1))
    (batch,) = predicted(JavisBench(str(listing), str(tmp_path / "frames"), clip=CLIP, batch_size=2), tmp_path)
    assert list(batch.ids) == ["sample_0000", "sample_0001"]
    assert list(batch.captions) == ["a cat, meowing", "rain"] and batch.scenes == ["meows", "rain"]
    assert batch.transcripts is None
    write_csv(listing, [("text",), ("rain",), ("rain",), ("rain",)])
    with pytest.raises(InputError, match=r"frames has no picture sample_0002 \("):
        JavisBench(str(listing), str(tmp_path / "frames"), clip=CLIP)
    (batch, _) = predicted(JavisBench(str(listing), str(tmp_path / "frames"), max_clips=2, clip=CLIP), tmp_path)
    assert batch.scenes == ["rain"]
    write_csv(listing, [("prompt",), ("rain",)])
    with pytest.raises(InputError, match=r"JavisBench-mini\.csv has no column text; it has prompt"):
        JavisBench(str(listing), str(tmp_path / "frames"), clip=CLIP)


def test_names_are_said_once(tmp_path: Path) -> None:
    from datamodules.image_audio_pairs import ImageAudioPairs

    picture(tmp_path / "a.png", 60)
    images = [str(tmp_path / "a.png")] * 2
    with pytest.raises(InputError, match="names has 'x' more than once; each video needs a name of its own"):
        ImageAudioPairs(images, ["one", "two"], names=["x", "x"], clip=CLIP)
    with pytest.raises(InputError, match="there are 2 images and 1 names; give one per image"):
        ImageAudioPairs(images, ["one", "two"], names=["x"], clip=CLIP)


def test_verse_bench_is_scored_by_sets_with_first_frames(verse: Path) -> None:
    data = VerseBenchPrompts(str(verse), ["set1", "set3"], CLIP)
    data.setup("test")
    assert data.clip_names("test") == ["00000", "00002", "00100"]
    batches = list(data.test_dataloader())
    assert [batch.subsets for batch in batches] == [["set1"], ["set1"], ["set3"]]
    assert [batch.transcripts for batch in batches] == [["good day"], None, ["hello"]]
    assert batches[1].video.shape == (1, 1, 3, 16, 16) and batches[1].audio.shape == (1, 0)
    with pytest.raises(InputError, match="sets names 'set9'"):
        VerseBenchPrompts(str(verse), ["set9"], CLIP)


def test_harmony_bench_gives_the_voices_that_its_rows_name(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = [
        {"id": name, "spoken word en": "hello", "reference_image": "r.png"} for name in ("a", "b")
    ]
    rows[0]["reference_audio"] = "voice.wav"
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture(tmp_path / "r.png", 40)
    write_lossless(tmp_path / "voice.mov", torch.zeros(24, 3, 16, 16, dtype=torch.uint8), 12.0, VOICE, 16_000)
    (tmp_path / "voice.mov").rename(tmp_path / "voice.wav")  # a file is what it holds
    listing = str(tmp_path / "list.jsonl")
    (batch,) = predicted(HarmonyBench(listing, clip=CLIP, batch_size=2, reference_s=1.5), tmp_path)
    judged = PromptClips(listing, CLIP, batch_size=2, reference_s=1.5)
    judged.setup("test")
    for given in (batch, next(iter(judged.test_dataloader()))):
        assert given.reference_lengths.tolist() == [24_000, 0]
        assert (given.reference_audio[0] - VOICE[:24_000]).abs().max() < 1e-4 and not given.reference_audio[1].any()
    del rows[0]["reference_audio"]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (batch,) = predicted(HarmonyBench(listing, clip=CLIP, batch_size=2), tmp_path)
    assert batch.reference_audio is None


def test_harmony_bench_predicts_under_the_ids(tmp_path: Path) -> None:
    rows = [
        {
            "id": "a",
            "subset": "ambient",
            "audio caption": "rain",
            "video caption": "a roof",
            "reference_image": "r.png",
        },
        {"id": "s", "subset": "speech", "spoken word zh": "你好", "video caption": "a man"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture(tmp_path / "r.png", 40)
    picture(tmp_path / "first/s.jpg", 200)
    listing, images = str(tmp_path / "list.jsonl"), str(tmp_path / "first")
    batches = predicted(HarmonyBench(listing, images, clip=CLIP), tmp_path)
    assert [batch.ids for batch in batches] == [["a"], ["s"]]
    assert [batch.scenes for batch in batches] == [["rain"], ["a man"]]
    assert [batch.transcripts for batch in batches] == [[""], ["你好"]]
    assert [int(batch.video[0, 0, 0, 0, 0]) for batch in batches] == pytest.approx([40, 200], abs=3)
    (batch,) = predicted(HarmonyBench(listing, images, ["speech"], clip=CLIP), tmp_path)
    assert batch.ids == ["s"]
    with pytest.raises(InputError, match="s has no reference_image; set images"):
        HarmonyBench(listing, clip=CLIP)
    with pytest.raises(InputError, match=r"subsets names 'complex', which .* does not have; it has ambient, speech"):
        HarmonyBench(listing, images, ["complex"], clip=CLIP)
