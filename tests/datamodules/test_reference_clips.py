import json

import torch

from components.media.clock import ClipShape
from components.media.lossless import write_lossless
from datamodules.reference_clips import ReferenceClips

CLIP = ClipShape(num_frames=6, fps=24.0, height=16, width=16, sample_rate=16_000)


def write(folder, *names, frames=12):
    for number, name in enumerate(names):
        video = torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16) + 20 * number
        sound = torch.rand(round(frames / 24 * 16_000), generator=torch.Generator().manual_seed(number)) - 0.5
        write_lossless(folder / f"{name}.mov", video, 24.0, sound)


def batches(root, **settings):
    data = ReferenceClips(str(root), clip=CLIP, **settings)
    data.setup("test")
    return data.clip_names("test"), list(data.test_dataloader())


def test_nothing_is_held_out_and_clips_begin_where_recordings_do(tmp_path):
    write(tmp_path, *(f"class/{n}" for n in range(5)))
    names, found = batches(tmp_path, val_batch_size=2)
    assert names == [f"class/{n}" for n in range(5)] == [name for batch in found for name in batch.ids]
    assert found[0].video[:, :, 0, 0, 0].tolist() == [list(range(6)), list(range(20, 26))]


def test_a_manifest_says_recordings_subsets_and_languages(tmp_path):
    write(tmp_path, "a", "b", "c")
    rows = [
        {"id": "r_0", "video": "a.mov", "recording": "r", "subset": "speech", "language": "en", "transcript": "x"},
        {"id": "r_1", "video": "b.mov", "recording": "r", "subset": "ambient"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names, (batch,) = batches(tmp_path / "list.jsonl", val_batch_size=2)
    assert names == ["r_0", "r_1"] and list(batch.video_ids) == ["r", "r"]
    assert (batch.subsets, batch.languages) == (["speech", "ambient"], ["en", ""])


def test_a_split_is_obeyed(tmp_path):
    write(tmp_path, "a", "b")
    rows = [{"video": "a.mov", "split": "train"}, {"video": "b.mov", "split": "test"}]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert batches(tmp_path)[0] == ["b"]


def test_several_clips_of_a_recording_are_named_before_they_are_read(tmp_path):
    write(tmp_path, "a", "b")
    names, found = batches(tmp_path, clips_per_video=3, val_batch_size=1)
    assert names == [name for batch in found for name in batch.ids]
    assert names[:3] == ["a_clip-00", "a_clip-01", "a_clip-02"]
    assert batches(tmp_path, clips_per_video=3, max_val_clips=4)[0] == names[:4]
