import lightning as L
import pytest
import torch

from callbacks.ema import EMA
from callbacks.export_pretrained import ExportPretrained
from components.errors import InputError
from components.weights.identity import SUMS_FILE
from components.weights.whole_folder import whole_folder
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips


def fit(module, folder, *callbacks, steps=2):
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[ExportPretrained(str(folder)), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=steps,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=SquareClips())


def test_the_trained_weights_replace_an_earlier_export(tmp_path):
    target = tmp_path / "weights/squares"
    with whole_folder(target) as earlier:
        (earlier / "stale.pt").touch()
    module = JumpingSquares()
    fit(module, target)
    assert {file.name for file in target.iterdir()} == {"layer.pt", SUMS_FILE}
    assert torch.equal(torch.load(target / "layer.pt")["weight"], module.layer.weight)
    assert [file.name for file in target.parent.iterdir()] == ["squares"]


def test_the_average_is_written_where_one_is_kept(tmp_path):
    """As ``avsync export`` does: it is what validation judged."""
    module = JumpingSquares()
    fit(module, tmp_path / "squares", EMA(decay=0.9))
    written = torch.load(tmp_path / "squares/layer.pt")["weight"]
    assert torch.equal(written, module.ema.layer.weight)
    assert not torch.equal(written, module.layer.weight)


def test_a_failed_run_or_export_leaves_the_earlier_one(tmp_path):
    class Breaks(JumpingSquares):
        def save_pretrained(self, folder):
            (folder / "half.pt").touch()
            raise OSError("no space left")

    target = tmp_path / "squares"
    with whole_folder(target) as earlier:
        (earlier / "good.pt").touch()
    with pytest.raises(OSError, match="disk"):
        fit(JumpingSquares(fail_at=1), target)
    with pytest.raises(OSError, match="space"):
        fit(Breaks(), target)
    assert {file.name for file in target.iterdir()} == {"good.pt", SUMS_FILE}


def test_a_model_that_cannot_be_exported_is_refused_before_training(tmp_path):
    class Plain(JumpingSquares):
        save_pretrained = None

        def training_step(self, batch, batch_idx):
            raise AssertionError("training had begun")

    with pytest.raises(InputError, match=r"Plain has no save_pretrained\(folder\)"):
        fit(Plain(), tmp_path / "x")


def test_a_folder_of_something_else_is_refused_before_training(tmp_path):
    class Untrained(JumpingSquares):
        def training_step(self, batch, batch_idx):
            raise AssertionError("training had begun")

    (tmp_path / "results.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"holds results\.csv, which would be deleted"):
        fit(Untrained(), tmp_path)
    assert (tmp_path / "results.csv").read_text() == "1,2"
