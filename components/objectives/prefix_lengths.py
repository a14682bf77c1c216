"""How long the prefixes of a training step are: the high-resolution column takes n units, the others N + first - n."""

from __future__ import annotations

import torch

from components.contracts import mixed_seed
from components.errors import InputError


def units_per_stage(n: int, num_units: int, stages: int, first: int = 1, available: int | None = None) -> list[int]:
    """Prefix lengths per stage so that tokens per step stay even.

    Args:
        n: units of the highest stage, ``first <= n <= num_units``.
        num_units: N, units of a full clip.
        stages: number of stages.
        first: shortest prefix that is trained (2 for image-to-video, which never predicts frame 0).
        available: units the clips really have; longer prefixes are cut to it.
    """
    # Long prefixes at full resolution go with short ones at the lower stages. Released recipe: first = 1, N + 1 - n.
    lengths = [num_units + first - n] * (stages - 1) + [n]
    return [min(length, available or num_units) for length in lengths]


def synchronised_n(rank: int, call: int, group: int, num_units: int) -> int:
    """The released recipe: ``n = (rank mod G) + 1 + G (call mod (N div G))``; G ranks share the same clips.

    The released code counts calls from 1.

    With fewer ranks than G some n are never drawn; use G = number of ranks.

    Raises:
        ValueError: if the group is larger than the number of units.
    """
    if group > num_units:
        raise ValueError(f"a sync group of {group} ranks exceeds the {num_units} units of a clip")
    return rank % group + 1 + group * (call % (num_units // group))


def stratified_n(step: int, rank: int, world_size: int, num_units: int, first: int, seed: int) -> int:
    """Every n of ``first..num_units`` once per cycle, in an order that is new for each cycle.

    The position ``step * world_size + rank`` walks through a shuffled list, so any number of ranks covers all n.

    Raises:
        InputError: if the clips are shorter than the shortest prefix.
    """
    count = num_units + 1 - first
    if count < 1:
        raise InputError(
            f"the clips have {num_units} latent frames (units) but shortest_prefix is {first}: raise num_frames"
        )
    # Drawn by position, not by a running generator: a resumed run and any number of ranks draw the same lengths.
    cycle, place = divmod(step * world_size + rank, count)
    generator = torch.Generator().manual_seed(mixed_seed(seed, cycle))
    return first + int(torch.randperm(count, generator=generator)[place])
