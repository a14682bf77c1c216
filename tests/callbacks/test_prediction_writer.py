import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.prediction_writer import PredictionWriter
from components.media.reader import probe, read_audio, read_video
from tests.callbacks.jumping_squares import COLORS, FRAMES, JUMPS, JumpingSquares, SquareClips, clip_batch, render


def predict(folder, writer, datamodule=None):
    trainer = L.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, callbacks=[writer], enable_progress_bar=False
    )
    trainer.predict(JumpingSquares(), datamodule=datamodule or SquareClips(), return_predictions=False)


def test_every_clip_becomes_a_file_with_the_driving_sound(tmp_path, capsys):
    predict(tmp_path, PredictionWriter())
    files = sorted((tmp_path / "predictions").iterdir())
    assert len(files) == len(JUMPS)
    printed = capsys.readouterr().out
    assert all(f"Wrote {file}" in printed for file in files)
    (bell,) = (file for file in files if file.name.startswith("bell_c_1-"))
    info = probe(bell)
    assert (info.width, info.height, info.num_frames) == (32, 32, FRAMES)
    shown = read_video(bell, 0.0, FRAMES, 24.0, 32, 32).float() / 255
    assert (shown - render(JUMPS["bell/c_1"], COLORS["bell"])).abs().mean() < 0.04
    heard = read_audio(bell, 0.0, FRAMES * 16_000 // 24, 16_000)
    wanted = clip_batch(["bell/c_1"]).audio[0, : len(heard)]
    assert (heard * wanted).sum() / (heard.norm() * wanted.norm()) > 0.9


def test_a_folder_can_be_named_and_repeats_are_left_out(tmp_path):
    class Repeats(SquareClips):
        def predict_dataloader(self):
            return DataLoader([0], collate_fn=lambda _: clip_batch(["bell/c_0", "frog/b_0"], valid=[True, False]))

    predict(tmp_path, PredictionWriter(folder=str(tmp_path / "mine"), min_side=100), Repeats())
    (file,) = (tmp_path / "mine").iterdir()
    assert file.name.startswith("bell_c_0-")
    assert probe(file).width == 128
    assert not (tmp_path / "predictions").exists()


def test_files_without_loss_are_what_was_generated(tmp_path):
    predict(tmp_path, PredictionWriter(lossless=True, min_side=192))
    (bell,) = (tmp_path / "predictions").glob("bell_c_1-*.mov")
    made, batch = render(JUMPS["bell/c_1"], COLORS["bell"]), clip_batch(["bell/c_1"])
    assert torch.equal(read_video(bell, 0.0, FRAMES, 24.0, 32, 32), (made * 255).round().to(torch.uint8))
    assert torch.equal(read_audio(bell, 0.0, batch.audio.shape[1], 16_000), batch.audio[0])


def test_other_outputs_are_passed_over(tmp_path):
    class Numbers(JumpingSquares):
        def predict_step(self, batch, batch_idx):
            return self.layer.weight

    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        callbacks=[PredictionWriter()],
        enable_progress_bar=False,
    )
    trainer.predict(Numbers(), datamodule=SquareClips(), return_predictions=False)
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_nothing_happens_elsewhere(tmp_path, verb):
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        callbacks=[PredictionWriter()],
        enable_progress_bar=False,
    )
    getattr(trainer, verb)(JumpingSquares(), datamodule=SquareClips(), verbose=False)
    assert not list(tmp_path.iterdir())
