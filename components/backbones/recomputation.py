"""Which layers keep their activations for the backward pass, and which compute them again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from components.errors import InputError

Recomputation = bool | int | Literal["none", "selective", "full"]
"""``full`` (true) computes every layer again from its inputs, ``none`` (false) keeps all. ``selective`` also keeps the
results of attention, which are small and, at many tokens, half of the work. A number n computes every n-th layer
again."""

LayerPolicy = bool | Literal["selective"]
Result = TypeVar("Result")


def layer_policies(recomputation: Recomputation, num_layers: int) -> list[LayerPolicy]:
    """The policy of each layer.

    Raises:
        InputError: for a number below 1 or an unknown word.
    """
    if isinstance(recomputation, bool) or recomputation in ("none", "full"):
        return [recomputation in (True, "full")] * num_layers
    if recomputation == "selective":
        return ["selective"] * num_layers
    if not isinstance(recomputation, int) or recomputation < 1:
        raise InputError(
            f"checkpoint_activations is {recomputation}: give none, selective, full, or a number n from 1: every n-th "
            "layer is computed again."
        )
    return [(i + 1) % recomputation == 0 for i in range(num_layers)]


def recomputed(policy: LayerPolicy, run: Callable[..., Result], *given: Any, draws: bool = True) -> Result:
    """``run(*given)``, with what its backward pass needs kept or computed again.

    Args:
        policy: of the layer.
        run: the layer.
        given: its arguments.
        draws: it may draw random numbers (dropout), whose state is kept then.
    """
    if not policy or not torch.is_grad_enabled():
        return run(*given)
    more: dict[str, Any] = {"preserve_rng_state": draws}
    if policy == "selective":
        more["context_fn"] = partial(create_selective_checkpoint_contexts, _keeps_attention)
    result: Result = checkpoint(run, *given, use_reentrant=False, **more)
    return result


def _keeps_attention(_context: object, operation: Any, *_given: object, **_named: object) -> CheckpointPolicy:
    # by name: PyTorch has a kernel for every device, and libraries of attention bring their own
    is_attention = any(name in str(operation) for name in ("attention", "attn"))
    return CheckpointPolicy.MUST_SAVE if is_attention else CheckpointPolicy.PREFER_RECOMPUTE
