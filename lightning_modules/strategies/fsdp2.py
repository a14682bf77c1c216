"""Training on many devices with the weights sharded over them (PyTorch's `fully_shard`, "FSDP2").

The LightningModule shards itself in ``configure_model``; this strategy gives it the process mesh and moves its state
between shards and checkpoints. Single files are those of any other strategy: ``ddp`` and one process read them too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from components.backbones.data_place import place_of
from components.backbones.sharding import FrozenWeights, Sharding, local, reshard, whole
from components.errors import InputError
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.background import BackgroundCheckpointIO, copied
from lightning_modules.checkpoints.folder import FolderWrite
from lightning_modules.checkpoints.sharded import is_sharded_checkpoint, read_shards, remove
from lightning_modules.checkpoints.storage import told_written

_PRECISIONS = {"bfloat16": torch.bfloat16, "float32": None}
_FROZEN = ("sharded", "replicated")


class FSDP2Strategy(ModelParallelStrategy):
    """Shards weights, gradients and optimizer state over all processes; every process has clips of its own.

    Weights are kept in float32 (frozen ones in their own precision), gathered and computed with in ``compute_dtype``,
    and gradients are kept in float32. A checkpoint holds what the module's ``checkpoint_tensors()`` gives, all weights
    if it has no such method; nothing else is ever gathered. Codecs and encoders are whole on every device: processes
    do not call them in step, and sharding needs that.

    Args:
        compute_dtype: ``bfloat16``, or ``float32`` to compute in the precision the weights have.
        save_distributed_checkpoint: write checkpoints as folders in which every process has a part; otherwise rank 0
            gathers the model and writes one file, which takes the memory and the time of all of it on one machine.
        reduce_every_micro_batch: with gradient accumulation, average gradients after every batch: more traffic, but no
            process ever holds gradients of the whole model.
        reduce_dtype: precision in which gradients are summed over processes, ``float32`` or ``bfloat16``: half of the
            traffic, at the loss of what is small in sums over many processes. Accumulated batches are added up in it
            too, unless ``reduce_every_micro_batch``.
        replicas: groups of processes that each have a copy of the weights, sharded within the group, and average
            gradients with each other ("HSDP"): weights are gathered within a group alone. ``nodes`` makes a group of
            every machine; 1 shards over all processes. A process holds the share of a group: R replicas take R times
            the memory of one.
        prefetch: units (blocks) whose weights are asked for while one before them runs, forward and backward. 0 leaves
            it to PyTorch, which asks for one unit's once the work of the one before is queued; a slow network or small
            units may want 1 or 2. Each takes the memory of one more whole unit.
        frozen: weights of the transformer that do not train: ``sharded`` like all others, or ``replicated``, whole on
            every device in ``compute_dtype`` and never gathered.
        gather_once_in_sampling: keep weights gathered from the first step of sampling a batch to its last, all its
            variants included, instead of gathering them anew in every step. A device then holds all weights in
            ``compute_dtype`` beside its shards: 2 bytes each in bfloat16, 4.4 GB of Syncphony's 2.2 billion.
        context_parallel_size: so many neighbouring processes have the same clips and share their tokens, see
            `components.backbones.context_parallel`; how weights are sharded does not depend on it. 1 gives every
            process clips of its own.

    Raises:
        InputError: if a setting is unknown, ``replicas`` or ``context_parallel_size`` do not divide the processes, the
            module cannot share tokens, or the trainer's precision is not ``32-true``.
    """

    def __init__(
        self,
        compute_dtype: str = "bfloat16",
        save_distributed_checkpoint: bool = True,
        reduce_every_micro_batch: bool = False,
        reduce_dtype: str = "float32",
        replicas: int | Literal["nodes"] = 1,
        prefetch: int = 0,
        frozen: FrozenWeights = "sharded",
        gather_once_in_sampling: bool = False,
        context_parallel_size: int = 1,
    ) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint)
        for name, precision in (("compute_dtype", compute_dtype), ("reduce_dtype", reduce_dtype)):
            if precision not in _PRECISIONS:
                raise InputError(f"{name} is {precision!r}: give one of {', '.join(_PRECISIONS)}.")
        if frozen not in _FROZEN:
            raise InputError(f"frozen is {frozen!r}: give one of {', '.join(_FROZEN)}.")
        if prefetch < 0:
            raise InputError(f"prefetch is {prefetch}: give 0 to leave it to PyTorch, or a number of units.")
        if replicas != "nodes" and replicas < 1:
            raise InputError(f"replicas is {replicas!r}: give a number of groups from 1 on, or nodes.")
        self.compute_dtype = _PRECISIONS[compute_dtype]
        self.reduce_every_micro_batch = reduce_every_micro_batch
        self.replicas = replicas
        self.gather_once_in_sampling = gather_once_in_sampling
        if context_parallel_size < 1:
            raise InputError(f"context_parallel_size is {context_parallel_size}: give at least 1.")
        self.context_parallel_size = context_parallel_size
        summed = _PRECISIONS[reduce_dtype] or torch.float32
        self.sharding = Sharding(self.compute_dtype, summed, frozen, prefetch)
        self._sharding_mesh: DeviceMesh | None = None
        self._writers: dist.ProcessGroup | None = None

    @property
    def sharding_mesh(self) -> DeviceMesh:
        """The processes that share the weights; of two dimensions, replicas and shards, where there are replicas."""
        return self.device_mesh["data_parallel"] if self._sharding_mesh is None else self._sharding_mesh

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
        processes = self._data_parallel_size = self.num_nodes * self.num_processes
        replicas, context = self.num_nodes if self.replicas == "nodes" else self.replicas, self.context_parallel_size
        if processes % replicas:
            raise InputError(
                f"replicas is {replicas}, which does not divide the {processes} processes of trainer.num_nodes and "
                "trainer.devices; give a divisor, or nodes for a group of every machine."
            )
        if processes % context:
            raise InputError(
                f"context_parallel_size is {context}, but {processes} processes cannot be grouped by it: give a "
                "divisor of their number."
            )
        split_context = getattr(self.lightning_module, "split_context", None)
        if context > 1 and split_context is None:
            raise InputError(
                f"context_parallel_size is {context}, but {type(self.lightning_module).__name__} cannot share the "
                "tokens of a clip: set it to 1."
            )
        super().setup_environment()
        # Two meshes over the same processes: how weights are sharded does not depend on who has which clips. The mean
        # over replicas and shards is one over all processes, as sharing tokens wants it.
        if replicas > 1:
            # ranks of a machine follow each other, so that a row of the mesh is one machine or a part of it
            self._sharding_mesh = self._mesh(replicate=replicas, shard=processes // replicas)
        if context > 1 and split_context is not None:
            split_context(self._mesh(data=processes // context, context=context)["context"])
        if self._save_distributed_checkpoint:
            # of its own: saving in the background must not mix with what training sends
            self._writers = dist.new_group(backend="gloo")

    def setup(self, trainer: L.Trainer) -> None:
        """Shards, and evaluates under `torch.no_grad`: tensors of inference mode can be no shards."""
        loops = (trainer.validate_loop, trainer.test_loop, trainer.predict_loop, trainer.fit_loop.epoch_loop.val_loop)
        if any(loop.inference_mode for loop in loops):
            rank_zero_info("trainer.inference_mode is taken as false: weights are sharded")
        for loop in loops:
            loop.inference_mode = False
        super().setup(trainer)

    def _mesh(self, **sides: int) -> DeviceMesh:
        return init_device_mesh(self.root_device.type, tuple(sides.values()), mesh_dim_names=tuple(sides))

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """For samplers that Lightning makes: processes that share clips count as one."""
        place = place_of(self.global_rank, self.world_size, self.context_parallel_size)
        return {"num_replicas": place.size, "rank": place.rank}

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
        begun, io = time.monotonic(), self.checkpoint_io
        write = FolderWrite(path, self.is_global_zero, self._writers)
        if not isinstance(io, BackgroundCheckpointIO):
            write.begin()
            self._finish(write, checkpoint, begun, None)
            return
        io.writer.wait()
        write.begin()
        held = copied(checkpoint)
        waited_s = time.monotonic() - begun
        io.writer.submit(lambda: self._finish(write, held, begun, waited_s))

    def _finish(self, write: FolderWrite, checkpoint: dict[str, Any], begun: float, waited_s: float | None) -> None:
        write.finish(checkpoint)
        if self.is_global_zero:
            told_written(write.path, begun, waited_s)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The checkpoint, of which nothing has gone into the model yet: a mapped file, or shards like the model's."""
        path = Path(self.broadcast(checkpoint_path))
        # first: a folder that is being written would be none yet, on some processes and not on others
        if isinstance(self.checkpoint_io, BackgroundCheckpointIO):
            self.checkpoint_io.writer.wait()
        if not is_sharded_checkpoint(path):
            return self.checkpoint_io.load_checkpoint(path, weights_only=weights_only)
        model = {f"state_dict.{name}": tensor for name, tensor in self._checkpoint_tensors().items()}

        def template(name: str, size: torch.Size, dtype: torch.dtype) -> Tensor | None:
            if name.startswith("state_dict."):
                like = model.get(name)
                return None if like is None or like.shape != size else torch.empty_like(like, dtype=dtype)
            # ``optimizer.<optimizer>.<parameter index>.<name>``, see `write_shards`
            _, optimizer, index, _ = name.split(".", 3)
            parameters = [_parameters(one) for one in self.optimizers]
            if int(optimizer) >= len(parameters) or int(index) >= len(parameters[int(optimizer)]):
                return None  # of another model, which is refused once its names are known
            parameter = parameters[int(optimizer)][int(index)]
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
        """Give every optimizer its state, each tensor sharded like its parameter.

        Raises:
            InputError: if the checkpoint's optimizer has another number of parameters.
        """
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = _parameters(optimizer)
            there = sum(len(group["params"]) for group in state["param_groups"])
            if there != len(parameters):
                raise InputError(
                    f"the optimizer of the checkpoint has {there} parameters, but here {len(parameters)} train; use the"
                    " config the checkpoint was made with."
                )
            sharded = {
                index: {name: _sharded_like(value, parameters[index]) for name, value in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": sharded})

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Remove a file or folder; one that is replaced in the background, once the other is whole."""
        if self.is_global_zero:
            io = self.checkpoint_io
            io.remove_checkpoint(filepath) if isinstance(io, BackgroundCheckpointIO) else remove(Path(filepath))

    def teardown(self) -> None:
        """Waits for checkpoints that are being written."""
        try:
            self.checkpoint_io.teardown()
        finally:
            super().teardown()

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


StrategyRegistry.register(
    "fsdp2",
    FSDP2Strategy,
    "Weights sharded over all processes; checkpoints are folders every process writes a part of.",
)
StrategyRegistry.register(
    "fsdp2_files",
    FSDP2Strategy,
    "Weights sharded over all processes; checkpoints are single files.",
    save_distributed_checkpoint=False,
)
StrategyRegistry.register(
    "fsdp2_sharded", FSDP2Strategy, "The same as fsdp2, by its earlier name.", save_distributed_checkpoint=True
)
