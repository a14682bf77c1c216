"""The truth callback on rendered clips: real, frozen, with generated sound, and with pictures that were given."""

from dataclasses import replace

import pytest
import torch

from callbacks.picture_truth import PictureTruth
from components.codecs.video.pixel import PixelCodec
from components.contracts import Generation
from components.errors import InputError
from datamodules.procedural_clips import ProceduralClips
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips
from tests.callbacks.test_cyclesync import quiet_trainer

MEANS = ("path_error", "found", "psnr", "psnr_moving", "ssim")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("clips"))
    clips = ProceduralClips(root=root, num_train=1, num_test=6, render_seed=5, val_batch_size=6)
    clips.prepare_data()
    clips.setup("validate")
    return next(iter(clips.val_dataloader()))


def judged(tmp_path, made, codec=None):
    class Given(JumpingSquares):
        def validation_step(self, batch, batch_idx):
            return made

    class Scenes(SquareClips):
        has_known_scenes = True

        def val_dataloader(self):
            return torch.utils.data.DataLoader([0], batch_size=None)

    module = Given()
    if codec is not None:
        module.codec = codec
    callback = PictureTruth()
    trainer = quiet_trainer(tmp_path, callbacks=[callback])
    trainer.validate(module, datamodule=Scenes(), verbose=False)
    return callback


def test_every_kind_beside_ceiling_and_floor(tmp_path, batch):
    real = batch.video / 255
    still = Generation(real[:, :1].expand_as(real), batch.fps, batch.audio, batch.sample_rate, batch)
    noisy = (real + 0.02 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    made = Generation(noisy, batch.fps, batch.audio, batch.sample_rate, batch, {"off_sync": still})
    found = judged(tmp_path, made, PixelCodec(spatial_factor=4))
    results = {name: result.value for name, result in found.results.items()}
    wanted = {f"{name}{kind}" for name in ("truth_sync", *MEANS) for kind in ("", "_off_sync", "_still", "_codec")}
    assert set(results) == wanted | {"truth_sync_real", "found_real", "truth_sync_chance"}
    assert results["truth_sync"] == results["truth_sync_real"] == 100
    assert results["truth_sync_off_sync"] == results["truth_sync_still"] == 0
    assert results["truth_sync_chance"] < 50
    assert results["psnr"] == pytest.approx(34, abs=1)
    units = {name: found.results[f"psnr{name}"].details["by_unit"] for name in ("", "_still")}
    # eight frames per latent of the codec; noise is the same in all, a still is worst where the thing is furthest
    assert len(units[""]) == len(units["_still"]) == (real.shape[1] - 1) // 8
    assert units[""] == pytest.approx([34] * len(units[""]), abs=1)
    assert units["_still"][0] > 80 and min(units["_still"]) < 25
    assert results["psnr_moving_still"] < 15 < results["psnr_moving"]
    assert results["path_error"] < 3 < results["path_error_still"]
    low, high = found.results["psnr"].ci95
    assert low < results["psnr"] < high
    row = found.clip_rows[batch.ids[0]]
    assert row["scores"]["truth_sync"] == 100 and row["kinds"]["psnr_off_sync"] == "off_sync"
    assert row["onsets"]["still"] == [] and row["onsets"]["driving"] == list(batch.onsets[0])


def test_generated_sound_is_what_pictures_are_compared_with(tmp_path, batch):
    real = batch.video / 255
    noisy = (real + 0.02 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)

    def generated(video, audio):
        return Generation(video, batch.fps, audio, batch.sample_rate, batch)

    variants = {
        "no_synccfg": generated(noisy, batch.audio.roll(1, 0)),
        "audio_to_video": generated(noisy, batch.audio),
        "video_to_audio": generated(real, batch.audio.roll(1, 0)),
    }
    found = judged(tmp_path, replace(generated(noisy, batch.audio.clone()), variants=variants)).results
    results = {name: result.value for name, result in found.items()}
    assert results["truth_sync"] >= 85 and results["truth_sync_real_sound"] >= 85
    assert results["truth_sync_no_synccfg"] < 50 and results["truth_sync_video_to_audio"] < 50
    assert results["truth_sync_audio_to_video"] == 100
    # with another sound the real pictures are no measure
    assert {name for name in results if name.startswith("psnr_moving")} == {
        "psnr_moving_audio_to_video",
        "psnr_moving_still",
    }


def test_other_data_are_refused_before_anything_runs(tmp_path):
    trainer = quiet_trainer(tmp_path, callbacks=[PictureTruth()])
    with pytest.raises(InputError, match="rendered scenes whose truth is known, and SquareClips has none"):
        trainer.validate(JumpingSquares(), datamodule=SquareClips(), verbose=False)
