"""The public folders in every form, what is heard and seen of them, and their mistakes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from components.errors import InputError
from components.media.writer import write_mp4
from components.metrics.cyclesync.onsets import OnsetDetector
from datamodules.greatest_hits import TheGreatestHits, read_times
from datamodules.reading.clip_data_module import ClipDataModule
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.order import SampleKey
from tests.datamodules.conftest import clip_of
from tests.public_folders.greatest_hits import GreatestHitsFolder, write_greatest_hits


def data(root: Path, **more: Any) -> TheGreatestHits:
    clip = clip_of(more, num_frames=48, height=32, width=56)
    return TheGreatestHits(str(root), clip=clip, **{"num_workers": 0, "batch_size": 2, "val_batch_size": 2, **more})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> GreatestHitsFolder:
    """``vis-data-256`` unpacked into a folder of its own name."""
    return write_greatest_hits(tmp_path_factory.mktemp("hits") / "vis-data-256" / "vis-data-256")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> GreatestHitsFolder:
    return write_greatest_hits(tmp_path_factory.mktemp("hits") / "vis-data", "vis-data", num_train=1, num_test=1)


@pytest.fixture
def broken(tmp_path: Path) -> GreatestHitsFolder:
    return write_greatest_hits(tmp_path / "hits", num_train=1, num_test=1, seconds=1.5)


def test_records_of_the_small_release(small: GreatestHitsFolder) -> None:
    """The root may be the folder itself or either one above it."""
    for root in (small.root, small.root.parent, small.root.parent.parent):
        records = data(root).records("test")
        assert [record.id for record in records] == ["2015-02-16-16-49-02", "2015-02-16-16-49-03-197"]
        for record in records:
            assert record.path == small.root / f"{record.id}_denoised_thumb.mp4"
            assert record.sound == small.root / f"{record.id}_denoised.wav"
            assert record.onsets == pytest.approx(small.onsets[record.id])
            assert (record.caption, record.video_id) == ("hitting with a stick", record.id)
    assert data(small.root).records("val") == data(small.root).records("test")
    assert [record.id for record in data(small.root).records("train")] == small.train
    assert {record.caption for record in data(small.root, prompt="knock").records("train")} == {"knock"}


def test_a_validation_list_is_used_where_there_is_one(broken: GreatestHitsFolder) -> None:
    (broken.root / "val.txt").write_text(f"{broken.train[0]}\n")
    assert [record.id for record in data(broken.root).records("val")] == broken.train


def test_records_of_the_full_release(full: GreatestHitsFolder) -> None:
    name = full.test[0]
    assert data(full.root.parent).records("test")[0].path == full.root / f"{name}_denoised.mp4"
    mic = data(full.root, track="mic").records("test")[0]
    assert (mic.path.name, mic.sound) == (f"{name}_mic.mp4", full.root / f"{name}_mic.wav")
    assert data(full.root, track="mic", sound="mp4").records("test")[0].sound is None


def test_the_smallest_picture_that_has_enough_rows_is_read(broken: GreatestHitsFolder) -> None:
    thumb = broken.root / f"{broken.test[0]}_denoised_thumb.mp4"
    whole = thumb.with_name(thumb.name.replace("_thumb", ""))
    whole.write_bytes(thumb.read_bytes())
    assert data(broken.root, height=256, width=256).records("test")[0].path == thumb
    assert data(broken.root, height=384, width=640).records("test")[0].path == whole
    (broken.root / "test.txt").write_text(thumb.name)
    assert data(broken.root, height=384, width=640).records("test")[0].path == thumb


def test_avsyncds_layout_lists_file_names_and_needs_neither_times_nor_sounds(tmp_path: Path) -> None:
    folder = write_greatest_hits(tmp_path / "TheGreatestHits", "asva", num_train=1, num_test=1, seconds=2.5)
    record = data(folder.root).records("test")[0]
    assert record.path == folder.root / "videos" / f"{folder.test[0]}_denoised_thumb.mp4"
    assert (record.id, record.onsets, record.sound) == (folder.test[0], None, None)
    module = data(folder.root)
    module.setup("test")
    batch = next(iter(module.test_dataloader()))
    assert batch.onsets is None
    assert OnsetDetector()(batch.audio, 16000)[0]
    times = tmp_path / "times"
    times.mkdir()
    with pytest.raises(InputError, match=r"_times\.txt does not exist; unpack it or remove 2015-02-16-16-49-01-197"):
        data(folder.root, times=str(times)).records("test")
    (times / f"{folder.test[0]}_times.txt").write_text("0.5 wood hit static\n")
    assert data(folder.root, times=str(times)).records("test")[0].onsets == (0.5,)


def clip_sounds(module: TheGreatestHits, place: float) -> torch.Tensor:
    dataset = ClipDataset(module.records("test"), module.clip, "fixed")
    dataset._place = lambda index, part, key: place  # type: ignore[method-assign]
    return torch.stack([dataset[k].audio for k in range(len(dataset))])


@pytest.mark.parametrize("place", [0.0, 0.37, 1.0])
def test_wav_and_video_file_sound_at_the_same_time(full: GreatestHitsFolder, place: float) -> None:
    """A shift by one sample of 16 kHz would cost more than the coder does."""
    for track in ("denoised", "mic"):
        wav = clip_sounds(data(full.root, track=track, sound="wav"), place)
        mp4 = clip_sounds(data(full.root, track=track, sound="mp4"), place)
        error = (wav - mp4).square().mean()
        late = (wav[:, 1:] - mp4[:, :-1]).square().mean()
        early = (wav[:, :-1] - mp4[:, 1:]).square().mean()
        assert error < 0.2 * min(late, early)
    assert (clip_sounds(data(full.root), place) - clip_sounds(data(full.root, track="mic"), place)).abs().max() > 0.1


def test_the_wav_stands_in_for_a_video_file_without_sound(tmp_path: Path) -> None:
    mute = write_greatest_hits(tmp_path / "mute", num_train=1, num_test=1, sound_in_mp4=False)
    assert clip_sounds(data(mute.root), 0.5).abs().max() > 0.1
    with pytest.raises(InputError, match=r"denoised_thumb\.mp4 has no audio track"):
        clip_sounds(data(mute.root, sound="mp4"), 0.5)


def test_a_clips_onsets_are_where_they_are_heard_and_seen(small: GreatestHitsFolder) -> None:
    """In fixed and random clips; the bar flashes with the first frame after the contact."""
    module = data(small.root, clips_per_video=3)
    module.setup("fit")
    fixed = list(module.val_dataloader())
    assert [name for batch in fixed for name in batch.ids] == [
        f"{name}_clip-{part:02d}" for name in small.test for part in range(3)
    ]
    train = iter(module.train_dataloader())
    checked = 0
    for batch in (*fixed, *(next(train) for _ in range(3))):
        assert batch.video.shape == (2, 48, 3, 32, 56)
        assert batch.onsets is not None
        heard = OnsetDetector(gate_db=-50.0)(batch.audio, 16000)
        for k, truth in enumerate(batch.onsets):
            flash = batch.video[k, :, :, 20:].float().mean(dim=(1, 2, 3)).diff()
            for onset in truth:
                if not 0.1 < onset < 1.9:
                    continue
                nearest = min(heard[k], key=lambda time, onset=onset: abs(time - onset))
                assert -0.01 < nearest - onset < 0.04
                frame = int(np.ceil(onset * 24))  # the first output frame after the contact
                # it still shows the source frame before the contact if that one's 1/30 s is not over
                assert int(flash[frame - 3 : frame + 3].argmax()) in (2, 3)
                checked += 1
            inside = [time for time in heard[k] if 0.1 < time < 1.9]
            assert all(min(abs(time - onset) for onset in truth) < 0.06 for time in inside)
    assert checked >= 20


def test_30_fps_are_brought_to_24_by_time_stamps(tmp_path: Path) -> None:
    folder = write_greatest_hits(tmp_path / "grey", num_train=1, num_test=1, seconds=4.0)
    name = folder.train[0]
    grey = (torch.arange(120) % 60 * 4).to(torch.uint8)
    write_mp4(
        folder.root / f"{name}_denoised_thumb.mp4", grey[:, None, None, None].expand(-1, 3, 32, 56).contiguous(), 30
    )
    dataset = ClipDataset(data(folder.root).records("train"), data(folder.root).clip, "random")
    for position in range(8):
        clip = dataset[SampleKey(0, position)]
        start_s = float(clip.id.split("@")[1])
        shown = (clip.video.float().mean(dim=(1, 2, 3)) / 4).round().int()
        times = start_s + torch.arange(48, dtype=torch.float64) / 24
        due = (times * 30 + 1e-6).floor()
        sure = ((times * 30).remainder(1) - 0.5).abs() < 0.45  # the name rounds the start to milliseconds
        assert torch.equal(shown[sure], (due[sure] % 60).int())


def test_times_files(tmp_path: Path) -> None:
    path = tmp_path / "a_times.txt"
    path.write_text(
        "2.5 None hit None\n0.25 wood scratch rigid-motion\n\n1.0 metal None static\n"
        "3 dirt hit scatter\n3.0 dirt hit None\n"
    )
    assert read_times(path) == (0.25, 2.5, 3.0)
    assert read_times(path, ("scratch",)) == (0.25,)
    assert read_times(path, ("hit",)) == (2.5, 3.0)


def test_only_the_wanted_actions_are_onsets(small: GreatestHitsFolder) -> None:
    truth = small.onsets[small.test[0]]
    assert data(small.root, actions=["hit"]).records("test")[0].onsets == pytest.approx(truth[::2])
    assert data(small.root, actions=["scratch"]).records("test")[0].onsets == pytest.approx(truth[1::2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0 wood hit", r"'1\.0 wood hit' has 3 fields; it must read: seconds material action reaction"),
        ("soon wood hit static", r"'soon' is no time in seconds"),
        ("nan wood hit static", r"'nan' is no time in seconds"),
        ("-1 wood hit static", r"'-1' is no time in seconds"),
        ("1.0 wood kick static", r"unknown action 'kick'; it must be hit, scratch or None"),
    ],
)
def test_a_malformed_row_is_named(broken: GreatestHitsFolder, line: str, message: str) -> None:
    (broken.root / f"{broken.test[0]}_times.txt").write_text(f"0.5 wood hit static\n{line}\n")
    with pytest.raises(InputError, match=rf"_times\.txt, line 2: {message}"):
        data(broken.root).setup("test")


def test_missing_parts_are_named(broken: GreatestHitsFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the data folder .*nowhere does not exist; set root"):
        data(tmp_path / "nowhere").setup("fit")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"bare/train\.txt does not exist; root must be a folder with"):
        data(tmp_path / "bare").setup("fit")
    name, listing = broken.test[0], broken.root / "test.txt"
    (broken.root / f"{name}_times.txt").rename(tmp_path / "times")
    with pytest.raises(InputError, match=rf"{name}_times\.txt does not exist; unpack it or remove {name}"):
        data(broken.root).setup("test")
    (broken.root / f"{name}_denoised_thumb.mp4").unlink()
    with pytest.raises(InputError, match=rf"test\.txt lists {name} but .* has no {name}_denoised\.mp4 or"):
        data(broken.root).setup("test")
    listing.write_text("2015-01-01-00-00-00_denoised_thumb.mp4\n")
    with pytest.raises(InputError, match=r"test\.txt lists 2015-01-01-00-00-00_denoised_thumb\.mp4 but .* not exist"):
        data(broken.root).setup("test")
    listing.write_text("drum.mp4\n")
    with pytest.raises(InputError, match=r"test\.txt lists drum\.mp4; file names must read <id>_denoised\.mp4"):
        data(broken.root).setup("test")
    listing.write_text("\n \n")
    with pytest.raises(InputError, match=r"test\.txt is empty; it must list one id or file name per line"):
        data(broken.root).setup("test")
    wav = broken.root / f"{broken.train[0]}_mic.wav"
    wav.unlink()
    with pytest.raises(InputError, match=r"_mic\.wav does not exist and .*_denoised_thumb\.mp4 is not to be heard"):
        data(broken.root, track="mic").records("train")
    with pytest.raises(InputError, match=r"_mic\.wav does not exist and .* \(sound: mp4, track: mic\)"):
        data(broken.root, track="mic", sound="mp4").records("train")


def test_a_damaged_wav_is_named(broken: GreatestHitsFolder) -> None:
    (broken.root / f"{broken.test[0]}_denoised.wav").write_bytes(b"RIFF")
    module = data(broken.root, num_frames=24)
    module.setup("test")
    with pytest.raises(InputError, match=rf"{broken.test[0]}_denoised\.wav is corrupt, truncated or no media file"):
        next(iter(module.test_dataloader()))


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="actions has the unknown 'None'; choose from hit and scratch"):
        data(Path("x"), actions=["None"])
    with pytest.raises(InputError, match="actions is empty; name at least one"):
        data(Path("x"), actions=[])


def test_every_argument_is_known_to_the_command_line(small: GreatestHitsFolder) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClipDataModule, "data")
    options = {
        "root": small.root,
        "track": "mic",
        "sound": "wav",
        "actions": "[hit]",
        "clip.fps": 12,
        "prompt": "knocking",
    }
    parsed = parser.parse_args(
        ["--data=datamodules.greatest_hits.TheGreatestHits", *(f"--data.{key}={item}" for key, item in options.items())]
    )
    module = parser.instantiate_classes(parsed).data
    assert isinstance(module, TheGreatestHits)
    assert (module.track, module.sound, module.actions, module.prompt) == ("mic", "wav", {"hit"}, "knocking")
    with pytest.raises(Exception, match="track"):
        parser.parse_args(["--data=datamodules.greatest_hits.TheGreatestHits", "--data.root=x", "--data.track=left"])
