import lightning as L
import pytest

from callbacks.nan_guard import NaNGuard
from components.errors import InputError
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips


def fit(folder, guard, **model):
    module = JumpingSquares(**model)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[guard],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_steps=6,
        limit_val_batches=0,
    )
    try:
        trainer.fit(module, datamodule=SquareClips())
    finally:
        fit.weights = module.layer.weight.detach().clone()
    return trainer


def test_the_step_and_the_part_are_named_and_the_weights_stay_sound(tmp_path):
    with pytest.raises(InputError, match=r"the loss is nan at step 2 \(not finite: train/motion\); lower"):
        fit(tmp_path, NaNGuard(), bad_at=2)
    assert fit.weights.isfinite().all()


def test_a_sound_run_is_left_alone(tmp_path):
    assert fit(tmp_path, NaNGuard()).global_step == 6


def test_steps_between_are_not_looked_at(tmp_path):
    with pytest.raises(InputError, match="at step 4"):
        fit(tmp_path, NaNGuard(every_n_steps=4), bad_at=2)


def test_bad_interval():
    with pytest.raises(InputError, match="every_n_steps is 0"):
        NaNGuard(every_n_steps=0)
