"""Optimizers by their class path in both systems: a training goes on exactly, clipped and under a schedule."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from components.optimization import MuonAdamW
from lightning_modules.checkpoints.resume import ConfiguredRates
from tests.lightning_modules import tiny_module as syncphony
from tests.lightning_modules.harmony import tiny_harmony_module as harmony

STEPS, MIDDLE = 4, 2


def same_clips() -> harmony.TinyClips:
    """The same in every step: they keep no place."""
    data = harmony.TinyClips()
    data.make = lambda _: harmony.clips(position=0)  # type: ignore[method-assign]
    return data


SYSTEMS: dict[str, tuple[Any, Callable[[], L.LightningDataModule]]] = {
    "syncphony": (syncphony.tiny_module, syncphony.TinyData),
    "harmony": (partial(harmony.tiny_module, stage="joint"), same_clips),
}


def optimizers() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    found: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "MuonAdamW": MuonAdamW,
        "fused": partial(AdamW, fused=True),
    }
    if importlib.util.find_spec("torchao"):
        from torchao.optim import AdamW4bit, AdamW8bit

        # of a size that the tiny modules' matrices are made of
        found |= {"AdamW8bit": partial(AdamW8bit, block_size=32), "AdamW4bit": partial(AdamW4bit, block_size=32)}
    return found


@pytest.fixture(params=["MuonAdamW", "fused", "AdamW8bit", "AdamW4bit"])
def optimizer(request: pytest.FixtureRequest):
    if request.param not in optimizers():
        pytest.skip("torchao is not installed: pip install 'avsync[optim]'")
    torch.compiler.set_stance("force_eager")  # torchao compiles its step
    yield optimizers()[request.param]
    torch.compiler.set_stance("default")


def fit(system: str, optimizer: Any, folder: Path, steps: int, start: Path | None = None, **settings: Any) -> L.Trainer:
    build, data = SYSTEMS[system]
    torch.manual_seed(0)
    module = build(
        optimizer=lambda groups: optimizer(groups, lr=1e-3, weight_decay=0.1),
        lr_scheduler=lambda built: OneCycleLR(built, 1e-2, 10),
    )
    run = syncphony.trainer(folder, steps, gradient_clip_val=0.5, **settings)
    run.fit(module, data(), ckpt_path=None if start is None else str(start))
    return run


def weights(run: L.Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.lightning_module.parameters() if p.requires_grad])


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_training_goes_on_exactly(system: str, optimizer: Any, tmp_path: Path):
    whole = fit(system, optimizer, tmp_path, STEPS)
    fit(system, optimizer, tmp_path, MIDDLE).save_checkpoint(tmp_path / "middle.ckpt")
    torch.load(tmp_path / "middle.ckpt", weights_only=True)  # nothing but tensors and plain values
    # as the command line goes on: rates by the configuration
    rates = [ConfiguredRates(keep_reduced_rate=False)]
    resumed = fit(system, optimizer, tmp_path, STEPS, tmp_path / "middle.ckpt", callbacks=rates)
    assert torch.equal(weights(whole), weights(resumed))
    groups = [run.optimizers[0].param_groups for run in (whole, resumed)]
    for one, other in zip(*groups, strict=True):
        assert one["lr"] == other["lr"] and one["weight_decay"] == other["weight_decay"]
    assert {group["weight_decay"] for group in groups[0]} == {0.1, 0.0}


def test_a_fused_optimizer_is_clipped_under_mixed_precision(tmp_path: Path):
    """Lightning refuses it, for the kernel might have to unscale; nothing is scaled in ``bf16-mixed``."""
    runs = [
        fit("syncphony", partial(AdamW, fused=fused), tmp_path, MIDDLE, precision="bf16-mixed")
        for fused in (True, False)
    ]
    torch.testing.assert_close(*map(weights, runs), atol=1e-5, rtol=0)
