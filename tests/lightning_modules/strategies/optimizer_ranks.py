"""Trains a small network with every optimizer, sharded over gloo processes and by one.

Each is trained in one go, then to the middle, and goes on from there: from a folder, from a file, and from
``NAME.alone``, which one process has written.
"""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from components.backbones.sharding import reshard, shard_units, whole
from components.optimization import MuonAdamW
from lightning_modules.base import parameter_groups, scheduled
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from tests.lightning_modules.tiny_module import trainer

STEPS, MIDDLE, RANKS = 4, 2, 2


def optimizers() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """By name; torchao's where it is installed."""
    found: dict[str, Callable[..., torch.optim.Optimizer]] = {"MuonAdamW": MuonAdamW}
    if importlib.util.find_spec("torchao"):
        from torchao.optim import AdamW4bit, AdamW8bit, AdamWFp8

        found |= {kind.__name__: kind for kind in (AdamW8bit, AdamW4bit, AdamWFp8)}
    return found


class Network(L.LightningModule):
    """Matrices that torchao compresses, one whose rows are uneven over two processes, and vectors."""

    def __init__(self, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 66), nn.LayerNorm(66), nn.Linear(66, 256), nn.Linear(256, 33)
        )
        self.optimizer = optimizer

    def configure_model(self) -> None:
        if self.device_mesh is not None and not any(hasattr(p, "placements") for p in self.parameters()):
            strategy = self.trainer.strategy
            shard_units([self.net], self.device_mesh["data_parallel"], strategy.root_device, strategy.sharding)

    def configure_optimizers(self) -> Any:
        built = self.optimizer(parameter_groups(list(self.parameters())), lr=1e-3, weight_decay=0.1)
        return scheduled(self, built, lambda optimizer: OneCycleLR(optimizer, 1e-2, 10))

    def training_step(self, batch: Tensor) -> Tensor:
        """The same clips on all processes: one process does what many do."""
        generator = torch.Generator().manual_seed(self.global_step)
        x = torch.randn(
            512, 64, generator=generator
        )  # gradients of full rank: Muon turns rounding into steps elsewhere
        return (self.net(x) - x[:, :33]).square().mean()


def run(out: Path, name: str, steps: int, start: Path | None = None, **settings: Any) -> tuple[L.Trainer, Tensor]:
    """A training, and the weights at its end."""
    module = Network(optimizers()[name])
    # a norm that is added up in parts differs in its last digit, which few bits make more of: it clips nothing here
    fit = trainer(out, steps, gradient_clip_val=100.0, **settings)
    fit.fit(module, DataLoader(torch.zeros(10, 1)), ckpt_path=None if start is None else str(start))
    reshard(module)
    return fit, torch.cat([whole(p.detach()).flatten() for p in module.parameters()])


def sharded(folder: bool) -> dict[str, Any]:
    """Settings of the trainer."""
    return {"devices": RANKS, "strategy": FSDP2Strategy("float32", save_distributed_checkpoint=folder)}


def train_all(out: Path, names: Sequence[str]) -> None:
    """What one of the processes does."""
    if hasattr(torch.compiler, "set_stance"):
        torch.compiler.set_stance("force_eager")  # torchao compiles its step, which takes longer than all of this
    seen: dict[str, Any] = {}
    for name in names:
        _, once = run(out, name, STEPS, **sharded(False))
        ends = {}
        for form in ("folder", "file"):
            at = out / f"{name}.{form}"
            half, middle = run(out, name, MIDDLE, **sharded(form == "folder"))
            half.save_checkpoint(at)
            _, weights = run(out, name, STEPS, at, **sharded(form == "folder"))
            ends[form] = float((weights - once).abs().max())
        # one process has compressed what two cannot share evenly, which goes on in float32
        _, weights = run(out, name, STEPS, out / f"{name}.alone", **sharded(False))
        apart = float((weights - once).norm() / (once - middle).norm())
        kinds = {
            str(tuple(p.shape)): type(getattr(state.get("exp_avg"), "_local_tensor", None)).__name__
            for p, state in half.optimizers[0].state.items()
        }
        seen[name] = {"resumed": ends, "from_one": apart, "kinds": kinds, "weights": once.tolist()}
    rank = half.global_rank
    (out / f"rank{rank}.json").write_text(json.dumps(seen))
