"""Checkpoints of models that train a part of themselves: the trained weights, and what they were trained on top of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from callbacks.ema import EMA_PREFIX
from components.backbones.lora import plain_name
from components.errors import InputError
from components.weights.identity import Identity, identity_of

_MAX_NAMED = 10


class TrainableCheckpoint(L.LightningModule, ABC):
    """Keeps trainable weights (and their moving average, if any) and the identity of every frozen part.

    A checkpoint's ``frozen`` maps the names of `frozen_parts` to the name and SHA-256 of their weights. Loading refuses
    other keys, other shapes and other frozen weights before anything has changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold trainable weights; `on_load_checkpoint` checks the rest
        self._identities: dict[str, Identity] | None = None

    @abstractmethod
    def frozen_parts(self) -> dict[str, nn.Module]:
        """The parts whose weights do not, or not all, train, by the names users know them by."""

    def identities(self) -> dict[str, Identity]:
        """Identity of every frozen part, found once, before training and sharding change the tensors' layout.

        Of a part that was loaded from files it is theirs, else that of the tensors that do not train.
        """
        # before sharding, when every rank still has whole tensors
        if self._identities is None:
            self._identities = {
                name: identity_of(part, _frozen_tensors(part)) for name, part in self.frozen_parts().items()
            }
        return self._identities

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """The part of ``state_dict()`` that checkpoints hold."""
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {k: v for k, v in self.state_dict().items() if k in kept or k.startswith(EMA_PREFIX)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop what does not train, and say what it was."""
        kept = self.checkpoint_tensors().keys()
        # Lightning has collected everything; frozen weights can be loaded from where they came from
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["frozen"] = {
            name: {"name": identity.name, "sha256": identity.sha256} for name, identity in self.identities().items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not hold exactly the trainable weights, or was made on other frozen weights.

        Raises:
            InputError: naming the checkpoint, the keys or the part that differs, and the fix.
        """
        # one that holds weights alone Lightning would show to no callback, and its evaluations would be of step 0
        checkpoint.setdefault("callbacks", {})
        self._match_averages(checkpoint)
        wanted, found = self.checkpoint_tensors(), checkpoint["state_dict"]
        missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        shapes = sorted(k for k in wanted.keys() & found.keys() if wanted[k].shape != found[k].shape)
        if missing or unexpected or shapes:
            raise InputError(
                f"{self._named_checkpoint()} does not fit this model: missing {missing[:_MAX_NAMED]}, unexpected "
                f"{unexpected[:_MAX_NAMED]}, of another shape {shapes[:_MAX_NAMED]}; use the config the checkpoint was "
                "made with."
            )
        self._check_frozen(checkpoint.get("frozen"))

    def _match_averages(self, checkpoint: dict[str, Any]) -> None:
        """Averages nobody asked for are dropped; averages that are asked for begin at the weights if there are none."""
        found: dict[str, Tensor] = checkpoint["state_dict"]
        averages = {name for name in found if name.startswith(EMA_PREFIX)}
        wanted = {name for name in self.checkpoint_tensors() if name.startswith(EMA_PREFIX)}
        if averages and not wanted:
            checkpoint["state_dict"] = {name: value for name, value in found.items() if name not in averages}
            rank_zero_info(f"{self._named_checkpoint()} also holds averaged weights; the EMA callback would use them")
        elif wanted and not averages:
            weights = {name: found.get(name.removeprefix(EMA_PREFIX)) for name in wanted}
            # a weight that is not there stays missing, for `on_load_checkpoint` to name
            checkpoint["state_dict"] = found | {name: value for name, value in weights.items() if value is not None}
            rank_zero_info(f"{self._named_checkpoint()} holds no averaged weights; the average begins at its weights")

    def _check_frozen(self, found: Mapping[str, Mapping[str, str]] | None) -> None:
        if found is None:
            raise InputError(
                f"{self._named_checkpoint()} does not say which frozen weights it was trained on top of; give one that "
                "avsync fit has written."
            )
        for name, here in self.identities().items():
            there = found.get(name)
            if there is None or there["sha256"] != here.sha256:
                was = f"{there['name']} (sha256 {there['sha256'][:12]})" if there else "nothing of that name"
                fix = f"load {there['name']} there" if there else "use the config the checkpoint was made with"
                raise InputError(
                    f"{self._named_checkpoint()} was trained on top of other frozen weights: its {name} was {was}, but "
                    f"this config loads {here.name} (sha256 {here.sha256[:12]}); {fix}."
                )

    @property
    def run(self) -> L.Trainer | None:
        """The trainer, or None for a module that is used by itself (Lightning's own ``trainer`` raises there)."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    def _named_checkpoint(self) -> str:
        path = None if self.run is None else self.run.ckpt_path
        return f"checkpoint '{path}'" if path else "the checkpoint"


def _frozen_tensors(part: nn.Module) -> dict[str, Tensor]:
    """By their plain names: a part with adapters stands on the same weights as without."""
    trained = {name for name, parameter in part.named_parameters() if parameter.requires_grad}
    return {plain_name(name): tensor for name, tensor in part.state_dict().items() if name not in trained}
