import json

import lightning as L
import pytest
import torch

from callbacks.cyclesync import CycleSyncCallback
from callbacks.evaluation import EvaluationCallback
from callbacks.results import ResultsWriter
from callbacks.slim_checkpoint import SlimCheckpoint
from callbacks.sync_confidence import SyncConfidenceCallback
from components.contracts import Generation
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.v2a.motion_v2a import MotionV2A
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips
from tests.lightning_modules.tiny_module import TinyData, tiny_module
from tests.lightning_modules.tiny_module import trainer as tiny_trainer
from tests.processes import run_ranks


class Diary(EvaluationCallback):
    def __init__(self):
        super().__init__()
        self.entries = []

    def start(self, trainer, module):
        self.entries.append(f"start {self.stage} {self.global_step}")

    def update(self, generation):
        assert isinstance(generation, Generation)
        self.entries.append(" ".join(generation.reference.ids))

    def finish(self, trainer, module):
        self.entries.append("finish")

    def conclude(self, trainer, module):
        self.entries.append("conclude")


class Numbers(JumpingSquares):
    """Validates without generating."""

    def validation_step(self, batch, batch_idx):
        return self.layer.weight.sum()


CLIPS = ["hammering/a_0 hammering/a_1", "frog/b_0 frog/b_1", "bell/c_0 bell/c_1"]


def trainer_with(folder, callback, **kwargs):
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **kwargs,
    )


def test_fit_validate_and_test_look_alike_and_the_sanity_check_is_skipped(tmp_path):
    diary = Diary()
    trainer = trainer_with(tmp_path, diary, max_steps=2, val_check_interval=1, num_sanity_val_steps=2)
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    assert diary.entries == [
        *("start val 1", *CLIPS, "finish", "conclude"),
        *("start val 2", *CLIPS, "finish", "conclude"),
    ]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for verb, stage in (("validate", "val"), ("test", "test")):
        diary = Diary()
        run = getattr(trainer_with(tmp_path, diary), verb)
        run(JumpingSquares(), datamodule=SquareClips(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
        assert diary.entries == [f"start {stage} 2", *CLIPS, "finish", "conclude"]


def test_other_outputs_are_passed_over(tmp_path):
    diary = Diary()
    trainer_with(tmp_path, diary).validate(Numbers(), datamodule=SquareClips(), verbose=False)
    assert diary.entries == ["start val 0", "finish", "conclude"]


def judge_clips(folder, devices):
    """Five clips on two ranks: one rank repeats a clip, which must not count."""
    torch.manual_seed(0)
    net = SyncNet((4,) * 6, (4,) * 6, 8, 8, 64)
    judges = [CycleSyncCallback(MotionV2A()), SyncConfidenceCallback(SyncNetScorer(net, min_duration_s=1.0))]
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        default_root_dir=folder / f"of_{devices}",
        logger=False,
        enable_progress_bar=False,
        callbacks=[*judges, ResultsWriter()],
    )
    module = JumpingSquares()
    module.hits += 1
    trainer.validate(module, datamodule=SquareClips(batch_size=2, count=5), verbose=False)


def test_any_number_of_ranks_gives_the_same_results(tmp_path):
    for devices in (1, 2):
        ended = run_ranks(judge_clips, (tmp_path, devices), devices)
        assert [one.status for one in ended] == [0] * devices, "\n".join(one.said for one in ended)
    one, two = (json.loads((tmp_path / f"of_{n}/results.json").read_text())["metrics"] for n in (1, 2))
    assert list(one) == list(two)
    values = {name: entry["value"] for name, entry in one.items()}
    assert {"sync_c", "sync_d_w0", "sync_c_real", "sync_d_chance"} < values.keys()
    for name, entry in one.items():
        # the networks' sums depend on what shares a batch, by the last digits
        ends = [*entry.pop("ci95"), entry.pop("value"), entry.pop("sem")]
        assert ends == pytest.approx([*two[name].pop("ci95"), two[name].pop("value"), two[name].pop("sem")], rel=1e-4)
        groups, others = (found.pop("groups")["folder"] for found in (entry, two[name]))
        for part, found in groups.items():
            assert others[part]["value"] == pytest.approx(found["value"], rel=1e-4)
        assert groups.keys() == others.keys() and entry == two[name]
        assert entry["n_clips"] == 5
    # two onsets of each clip are met: recordings of (3, 3), (4, 3) and (2) onsets
    assert values["cyclesync"] == pytest.approx(100 / 3 * (2 / 3 + (2 / 4 + 2 / 3) / 2 + 1))


def test_weights_alone_are_evaluated_at_the_step_they_were_trained_to(tmp_path):
    """Lightning shows callbacks no checkpoint that holds no states of any."""
    run = tiny_trainer(tmp_path, 2, callbacks=[SlimCheckpoint()], limit_val_batches=0)
    run.fit(tiny_module(), datamodule=TinyData())
    slim = next(tmp_path.rglob("slim.ckpt"))
    assert "callbacks" not in torch.load(slim, weights_only=True)
    judge = EvaluationCallback()
    tiny_trainer(tmp_path, -1, callbacks=[judge], limit_val_batches=1).validate(
        tiny_module(), datamodule=TinyData(), ckpt_path=slim, verbose=False
    )
    assert judge.global_step == 2
