"""Low-rank adapters (LoRA) on the linear layers of a block, and the way from them back to plain weights.

An adapted layer computes ``W x + (alpha / rank) B A x``: W stays as it is, A ``[rank, in]`` and B ``[out, rank]``
train. B starts at zero, so that a freshly adapted block is the block it was. The layers are those of `peft`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.errors import InputError

_A, _B = ".lora_A.", ".lora_B."


@dataclass(frozen=True)
class LoRAConfig:
    """Size and place of the adapters of a tower.

    Attributes:
        rank: rows of A, columns of B.
        alpha: the update is ``alpha / rank`` times ``B A``; null takes the rank, so that the factor is 1.
        dropout: probability of leaving out an input of A in training.
        targets: which linear layers of every block, by their names in diffusers or the ends of these: ``to_q`` is that
            of both attentions, ``attn1.to_q`` that of the self-attention alone, ``ffn.net.0.proj`` and ``ffn.net.2``
            are the feed-forward network.

    Raises:
        InputError: if a number is out of its range or there is no target.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"rank of LoRA is {self.rank}: give at least 1, or leave the adapters out.")
        if self.alpha is not None and self.alpha <= 0:
            raise InputError(f"alpha of LoRA is {self.alpha}: give a number above 0, or null for the rank.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout of LoRA is {self.dropout}: give a probability from 0 to below 1.")
        if not self.targets:
            raise InputError("targets of LoRA is empty: name linear layers such as to_q, or leave the adapters out.")

    @property
    def layout(self) -> dict[str, Any]:
        """What weights of adapters mean nothing without, as checkpoints hold it."""
        alpha = float(self.rank if self.alpha is None else self.alpha)
        return {"rank": self.rank, "alpha": alpha, "targets": sorted(set(self.targets))}


def add_adapters(block: nn.Module, config: LoRAConfig) -> None:
    """Adapt the linear layers that ``config`` names, in place; all other weights of the block are frozen.

    Adapters are float32 whatever the weights are: steps of the optimizer are lost in bfloat16.

    Raises:
        InputError: if a target is no linear layer of the block.
    """
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, part in block.named_modules() if isinstance(part, nn.Linear)]
    # a dot in front: ``q`` must not pass as the end of ``to_q``
    unknown = [target for target in config.targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown:
        raise InputError(
            f"targets of LoRA names {unknown}: a block's linear layers are {', '.join(linear)}; give these names or "
            "the ends of them."
        )
    layout = config.layout
    inject_adapter_in_model(
        LoraConfig(
            r=config.rank,
            lora_alpha=layout["alpha"],
            lora_dropout=config.dropout,
            target_modules=layout["targets"],
        ),
        block,
    )
    # peft makes them in the precision of the layer they adapt
    for name, parameter in block.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return _A in name or _B in name


def plain_name(name: str) -> str:
    """What a tensor of an adapted module is called in the module without adapters."""
    return name.replace(".base_layer.", ".")


def adapted_weight(name: str) -> str:
    """The plain name of the weight that a parameter of an adapter changes."""
    return f"{name.partition(_A)[0].partition(_B)[0]}.weight"


def merged(tensors: Mapping[str, Tensor], scale: Callable[[str], float]) -> dict[str, Tensor]:
    """Plain names and plain tensors; every adapter is added, in float32, to the weight it adapts.

    Args:
        tensors: of an adapted module: weights ``[out, in]`` under adapted or plain names, and the adapters.
        scale: ``alpha / rank`` by the name of an adapted layer.
    """
    plain = {plain_name(name): tensor for name, tensor in tensors.items() if not is_adapter(name)}
    for name, b in tensors.items():
        if _B in name:
            weight, a = adapted_weight(name), tensors[name.replace(_B, _A)]
            factor = scale(weight.removesuffix(".weight"))
            plain[weight] = torch.addmm(plain[weight].float(), b.float(), a.float(), alpha=factor)
    return plain


@contextmanager
def dropout_drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, dropout is a function of ``seed``; outside, torch's generators go on as if nothing had been drawn."""
    # the CPU's generator is forked in any case; without a list those of all GPUs would be
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
