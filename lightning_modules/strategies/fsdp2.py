"""Training on many devices with the weights sharded over them (PyTorch's `fully_shard`, "FSDP2").

The LightningModule shards itself in ``configure_model``; this strategy gives it the process mesh and moves its state
between shards and checkpoints. Single files are those of any other strategy: ``ddp`` and one process read them too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from components.backbones.sharding import local, reshard, whole
from components.errors import InputError
from components.weights.whole_file import sync_folder
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.sharded import is_sharded_checkpoint, read_shards, remove, write_shards
from lightning_modules.checkpoints.storage import not_written, storage_error

_PRECISIONS = {"bfloat16": torch.bfloat16, "float32": None}


class FSDP2Strategy(ModelParallelStrategy):
    """Shards weights, gradients and optimizer state over all processes; every process has clips of its own.

    Weights are kept in float32 (frozen ones in their own precision), gathered and computed with in ``compute_dtype``,
    and gradients are averaged in float32. A checkpoint holds what the module's ``checkpoint_tensors()`` gives, all
    weights if it has no such method; nothing else is ever gathered.

    Args:
        compute_dtype: ``bfloat16``, or ``float32`` to compute in the precision the weights have.
        save_distributed_checkpoint: write checkpoints as folders in which every process has a part, for models that
            do not fit into the memory of one machine; otherwise rank 0 writes one file.
        reduce_every_micro_batch: with gradient accumulation, average gradients after every batch: more traffic, but no
            process ever holds gradients of the whole model.

    Raises:
        InputError: if ``compute_dtype`` is unknown, or the trainer's precision is not ``32-true``.
    """

    def __init__(
        self,
        compute_dtype: str = "bfloat16",
        save_distributed_checkpoint: bool = False,
        reduce_every_micro_batch: bool = False,
    ) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint)
        if compute_dtype not in _PRECISIONS:
            raise InputError(f"compute_dtype is {compute_dtype!r}: give one of {', '.join(_PRECISIONS)}.")
        self.compute_dtype = _PRECISIONS[compute_dtype]
        self.reduce_every_micro_batch = reduce_every_micro_batch

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """Writes files whole or not at all unless the trainer was given something else."""
        if self._checkpoint_io is None:
            self._checkpoint_io = AtomicCheckpointIO()
        return super().checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, io: CheckpointIO | None) -> None:
        self._checkpoint_io = io

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizers are restored when the trainer says so, not while the file is read."""
        return True

    def setup_environment(self) -> None:
        """Connect the processes; by default Lightning would give all those of a machine the same clips."""
        precision = self.precision_plugin.precision
        if precision != "32-true":
            raise InputError(
                f"trainer.precision is {precision!r} but sharded training has a precision of its own: set "
                "trainer.precision to 32-true and choose compute_dtype of FSDP2Strategy."
            )
        # as many data-parallel groups as processes; "auto" would be one for each machine
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keep gradients to this process while batches are accumulated."""
        roots = [] if self.reduce_every_micro_batch else self._sharded_parts()
        # ``recurse=False``: the loop visits every part itself
        for part in roots:
            part.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for part in roots:
                part.set_requires_gradient_sync(True, recurse=False)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the model: shards for a folder, whole tensors on rank 0 for a file."""
        return self._for_checkpoint(self._checkpoint_tensors())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's ``state_dict()``, its tensors as in `lightning_module_state_dict`."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = plain.state_dict()
        return {**state, "state": {index: self._for_checkpoint(values) for index, values in state["state"].items()}}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: object | None = None
    ) -> None:
        """Write a file or a folder that appears whole or not at all."""
        path = Path(self.broadcast(filepath))
        # one file: the gather has happened already, rank 0 alone has the tensors
        if not self._save_distributed_checkpoint:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)
            self.barrier()
            return
        partial = path.with_name(f".{path.name}.part")
        if self.is_global_zero:
            if partial.exists():
                remove(partial)
            partial.mkdir(parents=True)
        # no rank may write before the folder is there
        self.barrier()
        try:
            write_shards(checkpoint, partial, self.is_global_zero)
        except BaseException as error:
            # PyTorch tells every rank what each of them met
            met = [error, *(one for one, _ in getattr(error, "failures", {}).values())]
            refused = next(filter(None, map(storage_error, met)), None)
            if refused is None:
                raise
            if self.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
            raise not_written(path, checkpoint, refused) from error
        # nor may it be renamed before all have written
        self.barrier()
        if self.is_global_zero:
            # two renames: a folder cannot replace one that is not empty
            replaced = path.rename(path.with_name(f".{path.name}.old")) if path.exists() else None
            partial.rename(path)
            sync_folder(path.parent)
            if replaced is not None:
                remove(replaced)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint, of which nothing has gone into the model yet: a mapped file, or shards like the model's."""
        path = Path(self.broadcast(checkpoint_path))
        if not is_sharded_checkpoint(path):
            return self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
        model = {f"state_dict.{name}": tensor for name, tensor in self._checkpoint_tensors().items()}

        def template(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
            if name.startswith("state_dict."):
                like = model.get(name)
                return None if like is None or like.shape != size else torch.empty_like(like, dtype=dtype)
            # ``optimizer.<optimizer>.<parameter index>.<name>``, see `write_shards`
            _, optimizer, index, _ = name.split(".", 3)
            if int(optimizer) >= len(self.optimizers):
                return None
            parameter = _parameters(self.optimizers[int(optimizer)])[int(index)]
            same = parameter.shape == size
            # steps and other values of another shape are whole on every rank
            return torch.empty_like(parameter, dtype=dtype) if same else torch.empty(size, dtype=dtype)

        return read_shards(path, template)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Give every shard its part of the checkpoint."""
        module = self._module()
        # after a validation the root's weights are gathered: a copy into them would be lost
        reshard(module)
        targets, found = module.state_dict(), checkpoint["state_dict"]
        # compared here: copying by name would pass over both kinds in silence
        missing, unexpected = sorted(targets.keys() - found.keys()), sorted(found.keys() - targets.keys())
        if unexpected or (strict and missing):
            raise InputError(
                f"the checkpoint does not fit this model: missing {missing[:10]}, unexpected {unexpected[:10]}; use "
                "the config the checkpoint was made with."
            )
        with torch.no_grad():
            for name, value in found.items():
                local(targets[name]).copy_(_part_of(value, targets[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Give every optimizer its state, each tensor sharded like its parameter."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            sharded = {
                index: {name: _sharded_like(value, parameters[index]) for name, value in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": sharded})

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a file or folder."""
        if self.is_global_zero:
            remove(Path(filepath))

    def _for_checkpoint(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if self._save_distributed_checkpoint:
            return dict(values)
        kept: dict[str, Any] = {}
        for name, value in values.items():
            everything = whole(value.detach()) if isinstance(value, Tensor) else value  # all ranks take part
            if self.is_global_zero:
                kept[name] = everything.cpu() if isinstance(everything, Tensor) else everything
        return kept

    def _checkpoint_tensors(self) -> dict[str, Tensor]:
        module = self._module()
        reshard(module)
        chosen = getattr(module, "checkpoint_tensors", module.state_dict)
        return dict(chosen())

    def _sharded_parts(self) -> list[FSDPModule]:
        return [part for part in self._module().modules() if isinstance(part, FSDPModule)]

    def _module(self) -> nn.Module:
        assert self.lightning_module is not None
        return self.lightning_module


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """Parameters in the order their state is numbered."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _part_of(value: Tensor, target: Tensor) -> Tensor:
    """This rank's part of a whole or sharded ``value`` that is to be laid out like ``target``."""
    if isinstance(value, DTensor) or not isinstance(target, DTensor):
        return local(value)
    for i, placement in enumerate(target.placements):
        if isinstance(placement, Shard):
            ranks, rank, dim = target.device_mesh.size(i), target.device_mesh.get_local_rank(i), placement.dim
            chunks = value.chunk(ranks, dim)  # how DTensor deals rows to ranks; the last ones may get none
            value = chunks[rank] if rank < len(chunks) else value.narrow(dim, 0, 0)
    return value


def _sharded_like(value: object, parameter: Tensor) -> object:
    """A whole optimizer tensor of the parameter's shape becomes sharded like it; anything else stays."""
    if not isinstance(value, Tensor) or isinstance(value, DTensor) or not isinstance(parameter, DTensor):
        return value
    if value.shape != parameter.shape:
        return value
    mine = _part_of(value, parameter).to(local(parameter).device, copy=True)
    return DTensor.from_local(
        mine,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


StrategyRegistry.register("fsdp2", FSDP2Strategy, "Weights sharded over all processes; checkpoints are single files.")
StrategyRegistry.register(
    "fsdp2_sharded",
    FSDP2Strategy,
    "Weights sharded over all processes; checkpoints are folders every process writes a part of.",
    save_distributed_checkpoint=True,
)
