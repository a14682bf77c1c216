"""Real ``avsync`` runs on one or two processes, what they have seen, and how it is compared.

`Witness` keeps losses, gradient norms and weights of every rank; `write_config` writes the configuration of a tiny
Syncphony on rendered clips.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch.distributed.fsdp import FSDPModule

from components.backbones.sharding import reshard, whole
from components.backbones.syncphony.model import SyncphonyDiT
from components.weights.identity import sha256_of_tensors
from lightning_modules.__main__ import main
from tests.lightning_modules.tiny_module import tiny_dit
from tests.processes import run_ranks, told
from tests.tiny_syncphony import randomise

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests.lightning_modules.strategies.parallel_runs"


def tiny_listener(noise: int = 0) -> SyncphonyDiT:
    """Late blocks that hear something from the start; ``noise`` other than 0 draws what trains differently per rank."""
    dit = tiny_dit(first_late_block=2)
    assert dit.audio_layers is not None and dit.audio_embedder is not None
    for i, module in enumerate((dit.audio_layers, dit.audio_embedder)):
        randomise(module, 1 + i + noise * int(os.environ.get("LOCAL_RANK", "0")))
    return dit


class Witness(L.Callback):
    """Writes what this rank saw to ``<file>.<rank>.json`` at every validation and at the end.

    Args:
        file: name without ending.
        stop_at: tell the last rank to stop after this step.
        stop_by: the signal's name; with ``group`` before it every process of the run gets it, loader workers too.
        in_validation: not after the step itself but after the first batch of its validation.
    """

    def __init__(
        self, file: str, stop_at: int | None = None, stop_by: str = "SIGTERM", in_validation: bool = False
    ) -> None:
        self.file = file
        self.stop_at, self.stop_by, self.in_validation = stop_at, stop_by, in_validation
        self.seen: dict[str, Any] = {"losses": [], "norms": [], "rates": [], "ids": [], "generated": {}, "sounds": {}}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        grads = [whole(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.seen["norms"].append(float(torch.stack([g.double().square().sum() for g in grads]).sum().sqrt()))
        self.seen["rates"].append(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen["losses"].append(float(trainer.callback_metrics["train/loss"]))
        self.seen["ids"].append(list(batch.ids))
        if not self.in_validation:
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        if trainer.global_step == self.stop_at and trainer.global_rank == trainer.world_size - 1:
            *group, name = self.stop_by.split()
            (os.killpg if group else os.kill)(os.getpid(), signal.Signals[name])

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            for name, made in (("generated", outputs.video), ("sounds", outputs.audio)):
                sums = made.double().abs().flatten(1).sum(dim=1).tolist()
                valid = [True] * len(sums) if outputs.valid is None else outputs.valid.tolist()
                self.seen[name] |= {n: s for n, s, v in zip(batch.ids, sums, valid, strict=True) if v}
            if self.in_validation:
                self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        reshard(module)
        trained = {n: whole(p.detach()).cpu() for n, p in module.named_parameters() if p.requires_grad}
        self.seen["weights"] = sha256_of_tensors(trained)
        network = module.dit if hasattr(module, "dit") else module.transformer
        local = [p.to_local() if hasattr(p, "to_local") else p for p in network.parameters()]
        self.seen["held"] = sum(p.numel() for p in local)
        self.seen["units"] = [type(part).__name__ for part in module.modules() if isinstance(part, FSDPModule)]
        Path(f"{self.file}.{trainer.global_rank}.json").write_text(json.dumps(self.seen))


def write_config(
    folder: Path,
    name: str,
    ema: bool = True,
    stop_at: int | None = None,
    slim: bool = False,
    workers: int = 0,
    witness: dict[str, Any] | None = None,
    **trainer: Any,
) -> Path:
    """``<folder>/<name>.yaml``; five evaluation clips, so that two ranks have unequal shares."""
    zero_steps = {"class_path": "PyramidSampler", "init_args": {"video_steps": [1, 1, 1], "video_text_scale": 1.0}}
    config = {
        "seed_everything": 3,
        "model": {
            "class_path": "SyncphonyModule",
            "init_args": {
                "dit": {"class_path": f"{HERE}.tiny_listener", "init_args": {"noise": 10}},
                "codec": {"class_path": "PixelCodec", "init_args": {"temporal_factor": 2}},
                "text_encoder": {"class_path": "HashedWords", "init_args": {"dim": 10}},
                "audio_encoder": {"class_path": "LogMelEncoder", "init_args": {"num_mels": 4}},
                "sampler": zero_steps,
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1.0e-3}},
                "lr_scheduler": {
                    "class_path": "torch.optim.lr_scheduler.StepLR",
                    "init_args": {"step_size": 2, "gamma": 0.5},
                },
            },
        },
        "clip": {"num_frames": 25, "height": 16, "width": 16},
        "data": {
            "class_path": "ProceduralClips",
            "init_args": {
                "root": str(folder / "clips"),
                "num_train": 6,
                "num_test": 5,
                "kinds": ["bouncing_ball"],
                "train_duration_s": 1.5,
                "batch_size": 4,
                "val_batch_size": 2,
                "num_workers": workers,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 3,
            "val_check_interval": 3,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "use_distributed_sampler": False,
            "default_root_dir": str(folder / "runs"),
            "callbacks": [
                {
                    "class_path": f"{HERE}.Witness",
                    "init_args": {"file": str(folder / name), "stop_at": stop_at, **(witness or {})},
                },
                {"class_path": "CycleSyncCallback", "init_args": {"v2a": {"class_path": "MotionV2A"}}},
                {"class_path": "ModelCheckpoint", "init_args": {"save_last": "link", "every_n_train_steps": 3}},
                *([{"class_path": "EMA", "init_args": {"decay": 0.5}}] if ema else []),
                *([{"class_path": "SlimCheckpoint"}] if slim else []),
            ],
            **trainer,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def avsync(command: str, config: Path, *options: str, status: int = 0) -> None:
    """One run on as many processes as its configuration asks for; all of them must end with this status."""
    arguments = [command, "--config", str(config), *options]
    ended = run_ranks(run_command, (arguments,), _devices(arguments), timeout_s=600)
    assert [one.status for one in ended] == [status] * len(ended), told(ended)


def launched(command: str, config: Path, *options: str, status: int = 0) -> None:
    """The same as a user starts it: a process of its own, from which Lightning starts the others."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_modules", command, "--config", str(config), *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that no rank outlives it
    )
    try:
        said, _ = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        said, _ = process.communicate(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status, said[-8000:]


def run_command(arguments: list[str]) -> int:
    """What one of the processes does."""
    sys.argv = ["avsync", *arguments]
    return main()


def _devices(arguments: list[str]) -> int:
    """What the last of the configuration files that names a number of processes says."""
    files = [Path(value) for option, value in pairwise(arguments) if option == "--config"]
    contents = [yaml.safe_load(file.read_text()) for file in files]
    named = [content["trainer"]["devices"] for content in contents if "devices" in content.get("trainer", {})]
    return int(named[-1]) if named else 1


def seen(folder: Path, name: str) -> list[dict[str, Any]]:
    """What every rank saw, rank 0 first."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}.[0-9].json"))]


def results(folder: Path, name: str, version: int = 0) -> dict[str, Any]:
    """The metrics of a run."""
    file = folder / "runs" / name / f"version_{version}" / "results.json"
    return json.loads(file.read_text())["metrics"]  # type: ignore[no-any-return]


def checkpoint(folder: Path, name: str, file: str = "last.ckpt", version: int = 0) -> Path:
    """Where a run has written a checkpoint."""
    return folder / "runs" / name / f"version_{version}" / "checkpoints" / file


def load(path: Path) -> dict[str, Any]:
    """A checkpoint that is one file."""
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def assert_same_tensors(first: dict[str, Any], second: dict[str, Any], tolerance: float) -> None:
    """Weights, averages and optimizer state of two checkpoints."""
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(value, second["state_dict"][name], atol=tolerance, rtol=0)
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second)]
    assert states[0].keys() == states[1].keys()
    for index, values in states[0].items():
        for name, value in values.items():
            torch.testing.assert_close(value, states[1][index][name], atol=tolerance, rtol=0)
