"""What an experiment takes: parameters, optimizer state and activations, counted without any weights.

::

    python -m benchmarks.memory --config configs/syncphony/avsync15.yaml
    python -m benchmarks.memory --config configs/harmony/stage3_joint.yaml --config configs/harmony/lora.yaml

The model is built on the meta device, from shapes alone; public checkpoints need not be there. Activations are what
autograd keeps in a real forward pass over one training batch, with attention counted as fused kernels keep it (queries,
keys, values, output). GiB are 2^30 bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.experiment import experiment_on_meta
from benchmarks.experiment_memory import ExperimentMemory, Part
from benchmarks.harmony_memory import harmony_memory
from benchmarks.measure import print_table
from benchmarks.syncphony_memory import syncphony_memory
from lightning_modules.syncphony.module import SyncphonyModule

GIB = 2**30


def print_parts(memory: ExperimentMemory) -> None:
    """What there is."""
    parts = memory.sharded | memory.replicated | memory.freed
    parts = {name: part for name, part in parts.items() if part.parameters} | {"total": Part.total(parts.values())}
    rows = [
        [name, f"{part.parameters / 1e6:,.1f}", f"{part.trained / 1e6:,.1f}", f"{part.weights / GIB:.2f}"]
        for name, part in parts.items()
    ]
    print_table(["part", "parameters (M)", "trained (M)", "weights (GiB)"], rows)


def print_gpus(memory: ExperimentMemory, gpu_counts: Sequence[int], averaged: bool) -> None:
    """What lies on each GPU."""
    held = {gpus: memory.per_gpu(gpus, averaged) for gpus in gpu_counts}
    rows = [[str(gpus), *(f"{value / GIB:.2f}" for value in columns.values())] for gpus, columns in held.items()]
    print_table(["GPUs", *held[gpu_counts[0]]], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints two tables: what there is, and what lies on each GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="configuration file; may be repeated")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 8])
    args, overrides = parser.parse_known_args(arguments)
    module, data, names = experiment_on_meta(args.config, overrides)
    memory = syncphony_memory(module, data) if isinstance(module, SyncphonyModule) else harmony_memory(module, data)

    print_parts(memory)
    print(f"\nper GPU and {memory.clips}, weights and optimizer sharded (GiB)")
    print_gpus(memory, args.gpus, "EMA" in names)
    setting = "with" if memory.checkpoints else "without"
    print(
        f"\nactivations: {setting} checkpoints, {memory.activations.batch};\n"
        f"all kept they are {memory.activations.without_checkpoints / GIB:.2f} GiB.\n"
        "encoding: what the codecs hold while they encode; the peak takes the larger of both.\n"
        "Not counted: buffers of the communication, the allocator's slack. Encoders of texts run for new texts only\n"
        "and are then freed."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
