"""Context parallelism: the tokens of every clip are shared among the processes of a group (Ulysses).

Source: DeepSpeed-Ulysses (arXiv 2309.14509). Norms, projections and feed-forward networks run on each process's tokens
alone. Only attention needs all of them: there an all-to-all exchange gives every process all tokens of a share of the
heads, and a second one takes the result back. (diffusers' own mechanism splits the inputs of its models' ``forward``,
which our towers replace, and takes no attention mask, which reference voices and windows need.)

Every operation's gradient is that of the sum of all processes' losses. Those of a group have the same loss, and each
gives its weights what its own tokens ask of them; so the plain mean of the gradients over all processes, as DDP and
FSDP take it, is the mean over the data and the sum over the tokens.

Legend: B rows, L tokens, l tokens of one process, n processes, H heads, d channels per head.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from components.errors import InputError


class ContextGroup:
    """The processes that share the tokens of the same clips.

    Args:
        mesh: one-dimensional.

    Attributes:
        group: to communicate by.
        size: n.
        rank: this process's place in the group.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self.group = mesh.get_group()
        self.size, self.rank = mesh.size(), mesh.get_local_rank()

    def check_heads(self, name: str, heads: int) -> None:
        """Makes sure that heads can be dealt out evenly.

        Raises:
            InputError: naming whose heads they are.
        """
        if heads % self.size:
            fits = [n for n in range(1, heads + 1) if heads % n == 0]
            raise InputError(
                f"context_parallel_size is {self.size}, but the {heads} attention heads of {name} cannot be dealt out "
                f"to {self.size} processes evenly: give one of {', '.join(map(str, fits))}."
            )

    def least(self, value: float, device: torch.device) -> float:
        """The smallest of the processes' values, for what they have to decide alike; each has to call it."""
        found = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(found, dist.ReduceOp.MIN, group=self.group)
        return float(found)

    def split(self, lengths: tuple[int, ...]) -> TokenSplit:
        """Tokens in segments of these lengths, each shared among all processes."""
        return TokenSplit(self, lengths)


class TokenSplit:
    """How one sequence is shared: every process has an equal part of each segment, the last ones padded with zeros.

    A plain class, so that sharding looks for no tensors in it. Padding is dropped wherever tokens meet: it is neither
    attended to nor given out, and no gradient comes from it.

    Args:
        context: the processes.
        lengths: tokens of each segment, which add up to L.

    Attributes:
        local_lengths: tokens of each segment on one process, which add up to l; the same on all of them.
    """

    def __init__(self, context: ContextGroup, lengths: tuple[int, ...]) -> None:
        self.context = context
        self.lengths = lengths
        self.local_lengths = tuple(-(-length // context.size) for length in lengths)
        self.num_local = sum(self.local_lengths)

    def first(self) -> TokenSplit:
        """The first segment as a sequence of its own."""
        return TokenSplit(self.context, self.lengths[:1])

    def last(self, segments: int) -> TokenSplit:
        """The last segments as a sequence of their own."""
        return TokenSplit(self.context, self.lengths[-segments:])

    def share(self, x: Tensor) -> Tensor:
        """This process's tokens ``[B, l, ...]`` of tokens ``[B, L, ...]`` that every process has."""
        first = self.context.rank * self.num_local
        return self._padded(x)[:, first : first + self.num_local]

    def gather(self, x: Tensor) -> Tensor:
        """All tokens ``[B, L, ...]`` on every process."""
        out: Tensor = _Gather.apply(x, self)  # type: ignore[no-untyped-call]  # torch's own, as all below
        return out

    def to_heads(self, x: Tensor) -> Tensor:
        """All heads of this process's tokens ``[B, l, H, d]`` for this process's heads of all, ``[B, L, H / n, d]``."""
        out: Tensor = _Exchange.apply(x, self, True)  # type: ignore[no-untyped-call]
        return out

    def to_tokens(self, x: Tensor) -> Tensor:
        """The other way round: ``[B, L, H / n, d]`` to ``[B, l, H, d]``."""
        out: Tensor = _Exchange.apply(x, self, False)  # type: ignore[no-untyped-call]
        return out

    def own_heads(self, x: Tensor) -> Tensor:
        """Of numbers per head ``[B, H]`` those of this process's heads, ``[B, H / n]``."""
        return x.chunk(self.context.size, dim=1)[self.context.rank]

    def _padded(self, x: Tensor) -> Tensor:
        """``[B, L, ...]`` to ``[B, n l, ...]``, process by process."""
        at = self._at(x.device)
        if at is None:
            return x
        return x.new_zeros(len(x), self.context.size * self.num_local, *x.shape[2:]).index_copy(1, at, x)

    def _unpadded(self, x: Tensor) -> Tensor:
        """``[B, n l, ...]``, process by process, to ``[B, L, ...]``."""
        at = self._at(x.device)
        return x if at is None else x.index_select(1, at)

    def _at(self, device: torch.device) -> Tensor | None:
        return _places(self.lengths, self.context.size, device)


def to_attend(x: Tensor, split: TokenSplit | None) -> Tensor:
    """Heads ``[B, L, H, d]`` as attention takes them, ``[B, H, L, d]``: with all tokens, and this process's heads."""
    return (x if split is None else split.to_heads(x)).transpose(1, 2)


def from_attention(out: Tensor, split: TokenSplit | None) -> Tensor:
    """What attention gives, ``[B, H, L, d]``, as ``[B, L, H, d]``: with all heads, and this process's tokens."""
    out = out.transpose(1, 2)
    return out if split is None else split.to_tokens(out)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _places(lengths: tuple[int, ...], size: int, device: torch.device) -> Tensor | None:
    """Where each token lies, process by process, int64 ``[L]``; None where that is their own order."""
    parts = [-(-length // size) for length in lengths]
    num_local, places = sum(parts), []
    for length, part, first in zip(lengths, parts, accumulate(parts, initial=0), strict=False):
        token = torch.arange(length)
        places.append(token // max(part, 1) * num_local + first + token % max(part, 1))
    at = torch.cat(places)
    if len(at) == size * num_local and torch.equal(at, torch.arange(len(at))):
        return None
    return at.to(device)


def _exchanged(sent: Tensor, context: ContextGroup) -> Tensor:
    """``[n, ...]``: part i goes to process i, and part i of the result comes from it."""
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=context.group)
    return received


def _heads_of(x: Tensor, split: TokenSplit) -> Tensor:
    sent = x.unflatten(2, (split.context.size, -1)).permute(2, 0, 1, 3, 4).contiguous()  # [n, B, l, H / n, d]
    return split._unpadded(_exchanged(sent, split.context).transpose(0, 1).flatten(1, 2))


def _tokens_of(x: Tensor, split: TokenSplit) -> Tensor:
    sent = split._padded(x).unflatten(1, (split.context.size, -1)).transpose(0, 1).contiguous()  # [n, B, l, H / n, d]
    return _exchanged(sent, split.context).permute(1, 2, 0, 3, 4).flatten(2, 3)


class _Exchange(torch.autograd.Function):
    """Tokens for heads or heads for tokens. The gradient goes the other way: each exchange is the other's transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: TokenSplit, to_heads: bool) -> Tensor:
        ctx.split, ctx.to_heads = split, to_heads
        return (_heads_of if to_heads else _tokens_of)(x, split)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return (_tokens_of if ctx.to_heads else _heads_of)(grad, ctx.split), None, None


class _Gather(torch.autograd.Function):
    """Its gradient sums what all processes ask of the tokens of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: TokenSplit) -> Tensor:
        ctx.split, context = split, split.context
        gathered = x.new_empty(context.size * len(x), *x.shape[1:])  # [n B, l, ...]: gloo takes no further dimension
        dist.all_gather_into_tensor(gathered, x.contiguous(), group=context.group)
        return split._unpadded(gathered.unflatten(0, (context.size, -1)).transpose(0, 1).flatten(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        split = ctx.split
        sent = split._padded(grad).unflatten(1, (split.context.size, -1)).transpose(0, 1).contiguous()
        # in one order of summands, so that runs repeat; as much traffic as a reduction
        return _exchanged(sent, split.context).sum(dim=0), None
