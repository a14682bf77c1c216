"""Trains the tiny module on two gloo processes and writes what each rank saw."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.nn.utils import parameters_to_vector

from components.weights.pretrained import sha256_of_tensors
from lightning_modules.syncphony.module import SyncphonyModule
from tests.lightning_modules.tiny_module import TinyData, tiny_dit, tiny_module, trainer


class Witness(L.Callback):
    """Compares the gradient the optimizer gets with the mean of the gradients every rank finds on its own."""

    def __init__(self, module: SyncphonyModule) -> None:
        self.lengths: list[int] = []
        self.losses: list[float] = []
        self.largest_error: list[float] = []
        draw = module.pyramid.draw

        def recorded(latents: torch.Tensor, units: list[int], generator: torch.Generator, *position: Any) -> Any:
            self.lengths.append(units[-1])
            return draw(latents, units, generator, *position)

        module.pyramid.draw = recorded  # type: ignore[method-assign]

    def on_train_batch_start(self, run: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        turn = run.global_step * run.world_size + run.global_rank
        loss = module._losses(batch, turn, torch.Generator().manual_seed(module._seed(turn)))["loss"]
        self.lengths.pop()  # this was not the training step
        self.losses.append(loss.item())
        mine = torch.autograd.grad(loss, [p for p in module.parameters() if p.requires_grad])
        self.mean = module.all_gather(parameters_to_vector(mine)).mean(dim=0)

    def on_after_backward(self, run: L.Trainer, module: Any) -> None:
        got = parameters_to_vector([p.grad for p in module.parameters() if p.requires_grad])
        self.largest_error.append(float((got - self.mean).abs().max() / self.mean.abs().max()))


def main(out: Path) -> None:
    """What one of the two processes does."""
    module = tiny_module(tiny_dit("mmdit", 1))
    witness = Witness(module)
    run = trainer(out, 3, devices=2, strategy="ddp", callbacks=[witness])
    run.fit(module, TinyData())
    seen = {
        "lengths": witness.lengths,
        "losses": witness.losses,
        "largest_error": witness.largest_error,
        "weights": sha256_of_tensors({n: p for n, p in module.named_parameters() if p.requires_grad}),
    }
    (out / f"rank{run.global_rank}.json").write_text(json.dumps(seen))
