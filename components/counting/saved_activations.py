"""How many bytes autograd keeps of a forward pass, and which block keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves


@dataclass
class BlockBytes:
    """What one block keeps.

    Attributes:
        kept: in all.
        inputs: what goes in, if that alone is kept (once for all blocks).
        attention: results of attention among what is kept, under `fused_attention`.
    """

    kept: int = 0
    inputs: int = 0
    attention: int = 0


def saved_bytes(
    forward: Callable[[], object], blocks: Sequence[nn.Module], model: nn.Module | None = None
) -> tuple[int, list[BlockBytes]]:
    """Bytes of all distinct storages saved for the backward pass, in all and block by block.

    Args:
        forward: runs the model.
        blocks: what is told apart.
        model: its weights do not count; None for those of the blocks.
    """
    owners = blocks if model is None else [model]
    weights = {storage_of(tensor) for owner in owners for tensor in (*owner.parameters(), *owner.buffers())}
    # tensors are held so that no storage's address is used twice
    seen: dict[int, Tensor] = {}
    entered: dict[int, Tensor] = {}
    counts = [BlockBytes() for _ in blocks]
    current: list[BlockBytes] = []
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        key = storage_of(tensor)
        if key not in seen and key not in weights and not isinstance(tensor, nn.Parameter):
            seen[key] = tensor
            size = tensor.untyped_storage().nbytes()
            total += size
            if current:
                current[-1].kept += size
                current[-1].attention += size if key in _Fused.results else 0
        return tensor

    def enter(_block: nn.Module, inputs: tuple[Any, ...], count: BlockBytes) -> None:
        current.append(count)
        states = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
        for leaf in states:
            if storage_of(leaf) not in entered:
                entered[storage_of(leaf)] = leaf
                count.inputs += leaf.numel() * leaf.element_size()

    hooks = []
    for block, count in zip(blocks, counts, strict=True):
        hooks.append(block.register_forward_pre_hook(lambda module, inputs, c=count: enter(module, inputs, c)))
        hooks.append(block.register_forward_hook(lambda *_: current.pop() and None))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    for hook in hooks:
        hook.remove()
    del result
    return total, counts


def storage_of(tensor: Tensor) -> int:
    """Which memory a tensor looks at; on the meta device addresses are all zero."""
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention that keeps what fused kernels keep: never the matrix of weights."""
    kernel = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = _Fused.call  # type: ignore[assignment]  # same calls
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = kernel
        _Fused.results.clear()


class _Fused(torch.autograd.Function):
    """Shapes of fused attention; only for counting."""

    results: ClassVar[dict[int, Tensor]] = {}  # by storage, and held, so that no address is used twice

    @staticmethod
    def call(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_settings: object) -> Tensor:
        result: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch annotates nothing here
        return result

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=v.device)
        _Fused.results[storage_of(out)] = out
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
