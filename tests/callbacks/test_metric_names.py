"""A metric is called the same in the results, the table, the log, a monitor, the report, the README and the docs."""

import csv
import json
import re
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from callbacks.clip_scores import read_clip_scores
from callbacks.cyclesync import CycleSyncCallback
from callbacks.results import ResultsWriter
from callbacks.sample_report import SampleReport
from callbacks.sync_confidence import SyncConfidenceCallback
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.v2a.motion_v2a import MotionV2A
from tests.callbacks.jumping_squares import JumpingSquares, SquareClips

ROOT = Path(__file__).parents[2]
KINDS = ("", "_w0", "_off_sync", "_real", "_chance")
NAMES = [f"{metric}{kind}" for metric in ("cyclesync", "sync_c", "sync_d", "mine") for kind in KINDS]
PUBLISHED_KINDS = {
    *("fooled_patch", "no_synccfg", "audio_to_video", "video_to_audio"),
    *("w0", "off_sync", "real", "chance", "low", "high"),
}


def test_one_name_everywhere(tmp_path, capsys):
    torch.manual_seed(0)
    net = SyncNet((4,) * 6, (4,) * 6, 8, 8, 64)
    judges = [
        CycleSyncCallback(MotionV2A()),
        SyncConfidenceCallback(SyncNetScorer(net, min_duration_s=1.0)),
        CycleSyncCallback(MotionV2A(floor=0.02), name="mine"),
    ]
    monitors = [ModelCheckpoint(tmp_path / name, f"{{{name}}}", monitor=name) for name in NAMES]
    trainer = L.Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path, "log", "it"),
        callbacks=[*judges, SampleReport(num_clips=1), ResultsWriter(), *monitors],
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=1,
        val_check_interval=1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
    )
    trainer.fit(JumpingSquares(), datamodule=SquareClips())
    folder = tmp_path / "log/it"
    results = json.loads((folder / "results.json").read_text())["metrics"]
    page = (folder / "report/index.html").read_text()
    printed = {line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    rows = csv.DictReader((folder / "metrics.csv").open())  # one for every callback that logs
    logged = {name: number for row in rows for name, number in row.items() if number}
    assert set(results) == set(NAMES)
    for name, monitor in zip(NAMES, monitors, strict=True):
        value, (low, high) = results[name]["value"], results[name]["ci95"]
        assert [float(logged[f"{name}{end}"]) for end in ("", "_low", "_high")] == pytest.approx([value, low, high])
        assert monitor.best_model_score == pytest.approx(value)
        assert list((tmp_path / name).glob(f"{name}=*.ckpt"))
        assert f"<code>{name}</code>" in page and name in printed
    assert {score.metric for score in read_clip_scores(folder / "clips.jsonl")} == set(NAMES)
    assert not [name for name in logged if name.startswith(("val/", "test/"))]


@pytest.mark.parametrize("page", ["README.md", "docs/numbers.md"])
def test_the_pages_use_these_names(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"`(cyclesync|sync_[cd])(?:_(\w+))?`", text)
    assert {name for name, _ in named} == {"cyclesync", "sync_c", "sync_d"}
    assert {kind for _, kind in named if kind} <= PUBLISHED_KINDS
    # rows and columns of tables, too
    assert not re.search(r"^\| *(CycleSync|Sync-[CD])\b", text, re.MULTILINE)
