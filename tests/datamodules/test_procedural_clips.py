"""Rendered folders: whole, re-used, the same for the same arguments, and true."""

import json
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.errors import InputError
from components.media.reader import probe
from datamodules import procedural_clips
from datamodules.avsync15 import AVSync15
from datamodules.procedural.scenes import MIN_GAP_S
from datamodules.procedural_clips import SMALL_CLIPS, ProceduralClips, draw_events, is_complete
from tests.datamodules.conftest import clip_of


def clips(root: Path, **more: Any) -> ProceduralClips:
    settings = {"num_train": 4, "num_test": 3, "train_duration_s": 2.5, "batch_size": 2, "val_batch_size": 3, "seed": 0}
    clip = clip_of(more, **vars(SMALL_CLIPS))
    return ProceduralClips(root=str(root), clip=clip, **{**settings, **more})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> ProceduralClips:
    data = clips(tmp_path_factory.mktemp("procedural"))
    data.prepare_data()
    data.setup("fit")
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_folder_is_an_avsync15_folder(rendered: ProceduralClips) -> None:
    plain = AVSync15(str(rendered.root), clip=SMALL_CLIPS)
    assert plain.records("train") == rendered.records("train")
    records = plain.records("test")
    assert [record.caption for record in records] == ["a bouncing ball", "a mallet striking a bar", "a speaking face"]
    assert all(record.onsets for record in records)
    assert [record.id for record in rendered.records("train")][3] == "bouncing_ball/bouncing_ball_train_00003"


def test_recordings_are_h264_with_aac_of_the_right_length(rendered: ProceduralClips) -> None:
    train, test = (probe(rendered.records(split)[0].path) for split in ("train", "test"))
    assert (train.num_frames, test.num_frames) == (60, 49)
    assert test.duration_s == pytest.approx(49 / 24, abs=1e-3)
    assert (test.height, test.width, test.fps, test.sample_rate) == (32, 32, 24.0, 16000)


def test_batches_are_true(rendered: ProceduralClips) -> None:
    """Sound and picture jump where ``onsets`` says, in whole test clips and in random training clips."""
    batches = [next(iter(rendered.val_dataloader())), next(iter(rendered.train_dataloader()))]
    checked = 0
    for batch in batches:
        assert batch.video.shape[1:] == (49, 3, 32, 32)
        assert batch.audio.shape[1:] == (round(49 / 24 * 16000),)
        for video, audio, onsets in zip(batch.video.float(), batch.audio, batch.onsets, strict=True):
            for onset in onsets:
                sample, frame = round(onset * 16000), int(np.ceil(onset * 24))
                if onset < 0.1 or onset > 1.9:
                    continue
                assert audio[sample + 8 : sample + 320].abs().max() > 5 * audio[sample - 800 : sample - 16].abs().max()
                steps = (video[1:] - video[:-1]).abs().mean(dim=(1, 2, 3))
                assert abs(int(steps[frame - 4 : frame + 3].argmax()) - 3) <= 1
                checked += 1
    assert checked >= 8


def test_arguments_decide_every_byte(rendered: ProceduralClips, tmp_path: Path) -> None:
    again = clips(tmp_path, seed=9, batch_size=1)  # arguments that are not the rendering's
    again.prepare_data()
    assert again.root.name == rendered.root.name
    assert contents(again.root) == contents(rendered.root)
    other = clips(tmp_path, render_seed=1)
    other.prepare_data()
    assert other.root != again.root
    first = "videos/bouncing_ball/bouncing_ball_test_00000.mp4"
    assert contents(other.root)[first] != contents(again.root)[first]
    for change in ({"height": 64}, {"fps": 12.0, "num_frames": 25}, {"kinds": ["bouncing_ball"]}, {"crf": 20.0}):
        assert clips(tmp_path, **change).root != again.root


def test_a_longer_list_begins_with_the_shorter_one(rendered: ProceduralClips, tmp_path: Path) -> None:
    longer = clips(tmp_path, num_test=4)
    longer.prepare_data()
    assert [r.onsets for r in longer.records("test")][:3] == [r.onsets for r in rendered.records("test")]


def test_a_rendered_folder_is_used_again(rendered: ProceduralClips, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(procedural_clips, "_render", fail)
    clips(rendered.root.parent).prepare_data()


def test_an_interrupted_rendering_is_never_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, count = procedural_clips._render_recording, 0

    def stop_at_three(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(procedural_clips, "_render_recording", stop_at_three)
    data = clips(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_data()
    assert not data.root.exists()
    with pytest.raises(InputError, match=r"is not rendered yet; call prepare_data\(\) first"):
        data.setup("fit")
    monkeypatch.undo()
    data.prepare_data()
    assert is_complete(data.root, data.rendering)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [data.root.name]


def test_a_folder_without_its_manifest_is_rendered_anew(tmp_path: Path) -> None:
    data = clips(tmp_path, num_train=1, num_test=1)
    data.root.mkdir(parents=True)
    (data.root / "train.txt").write_text("bouncing_ball/old.mp4\n")
    data.prepare_data()
    assert len(data.records("train")) == 1


def test_processes_that_start_together_render_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = procedural_clips._render, []

    def counted(*arguments: Any) -> None:
        calls.append(arguments)
        whole(*arguments)

    monkeypatch.setattr(procedural_clips, "_render", counted)
    data = [clips(tmp_path, num_train=2, num_test=1) for _ in range(4)]
    threads = [threading.Thread(target=one.prepare_data) for one in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(data[0].records("train")) == 2


def test_onsets_keep_their_distance_and_vary_in_number() -> None:
    counts = set()
    for seed in range(200):
        times = [event.time_s for event in draw_events(49 / 24, np.random.default_rng(seed))]
        counts.add(len(times))
        assert times[0] >= MIN_GAP_S
        assert times[-1] <= 49 / 24 - 0.2
        assert all(MIN_GAP_S <= b - a <= 0.9 for a, b in pairwise(times))
    assert len(counts) >= 3


def test_sizes_other_than_the_default(tmp_path: Path) -> None:
    data = clips(tmp_path, height=48, width=80, fps=12.0, num_frames=25, num_train=1, num_test=1, sample_rate=22050)
    data.prepare_data()
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch.video.shape == (1, 25, 3, 48, 80)
    assert batch.audio.shape == (1, round(25 / 12 * 22050))
    assert torch.equal(batch.valid, torch.tensor([True]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kinds": ["juggling"]},
            "unknown scene 'juggling'; choose from bouncing_ball, striking_mallet, speaking_face",
        ),
        ({"kinds": []}, "kinds is 0"),
        ({"num_train": 0}, "num_train is 0; at least 1 is needed"),
        ({"train_duration_s": 1.0}, r"train_duration_s is 1\.0; it must not be below a clip's 2\.042 s"),
        ({"num_frames": 9}, r"9 frames at 24\.0 fps have no room for an event"),
        ({"width": 33}, r"width is 33; H\.264 needs even sizes"),
        ({"fps": 0.0}, r"fps is 0\.0; it must be positive"),
    ],
)
def test_wrong_arguments(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        clips(tmp_path, **change)


def test_the_manifest_tells_how_the_files_were_made(rendered: ProceduralClips) -> None:
    manifest = json.loads((rendered.root / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["kinds"] == ["bouncing_ball", "striking_mallet", "speaking_face"]
    assert manifest["test_frames"] == 49
