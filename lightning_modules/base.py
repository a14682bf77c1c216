"""What training and sampling of both systems share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.lr_scheduler import ReduceLROnPlateau

from components.backbones.data_place import data_place
from components.backbones.sharding import DEFAULT_SHARDING, Sharding, is_sharded, kept_gathered
from components.contracts import ClipBatch, Generation, VideoCodec, mixed_seed
from components.contracts.features import Movable
from components.counting.flops import StepCost, meta_twin
from components.errors import InputError
from components.optimization import keep_state_plain, prefer_fused
from components.weights.unloaded import load
from lightning_modules.checkpoints.trainable import TrainableCheckpoint

Conditions = TypeVar("Conditions")


class Shardable(Protocol):
    """A transformer that spreads itself over processes."""

    def shard(self, mesh: DeviceMesh, device: torch.device, how: Sharding = DEFAULT_SHARDING) -> None:
        """Moves itself to ``device`` and keeps this process's part alone."""


@runtime_checkable
class SharesTokens(Protocol):
    """A transformer whose tokens can be shared among processes."""

    def split_context(self, mesh: DeviceMesh) -> None:
        """Shares them from now on."""


class SeededModule(TrainableCheckpoint):
    """Draws everything by one seed, which is the experiment's unless one is given.

    Args:
        noise_seed: seed of everything random in training and sampling; None takes the experiment's
            ``seed_everything``, and 0 without one.
    """

    def __init__(self, noise_seed: int | None) -> None:
        super().__init__()
        self._follows_seed = noise_seed is None
        self.noise_seed = noise_seed or 0

    def follow_seed(self, seed: int) -> None:
        """Draws everything by ``seed``, the experiment's, unless a ``noise_seed`` was given."""
        if self._follows_seed:
            self.noise_seed = seed


class GenerativeModule(SeededModule, Generic[Conditions]):
    """A transformer that trains among frozen codecs and encoders, and is sampled once for all callbacks that judge it.

    Args:
        optimizer: builds the optimizer from parameter groups (weights; vectors, which get no weight decay).
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        variants: what validation generates besides the guided clips.
        noise_seed: see `SeededModule`.
        sample_posterior: draw training latents from the codecs' posteriors instead of taking their means.

    Attributes:
        frozen_arguments: arguments of the constructor that take codecs and encoders, and the role of each
            (`lightning_modules.command_line.frozen_parts`): what a training on encoded clips does without.
        takes_sounds_alone: where it learns from pictures and sounds, some sets of a mixture may lack pictures.
        logged_names: what can be watched of the training; ``*`` and ``?`` stand for parts and numbers.
        why_nothing_trains: the settings that freeze the whole transformer, for the error that says so.
        gradient_norm: of the step in progress, where `NaNGuard` has found it; whoever changes gradients after that sets
            it to None.
    """

    frozen_arguments: ClassVar[Mapping[str, str]] = {}
    takes_sounds_alone: ClassVar[bool] = False
    logged_names: ClassVar[tuple[str, ...]] = ()
    why_nothing_trains: str

    def __init__(
        self,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        variants: Sequence[str],
        noise_seed: int | None,
        sample_posterior: bool = False,
    ) -> None:
        super().__init__(noise_seed)
        self.sample_posterior = sample_posterior
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.variants = tuple(variants)
        self.gradient_norm: Tensor | None = None
        self._shapes: list[nn.Module] = []  # in a list: it is no part of this module

    @abstractmethod
    def trained_transformer(self) -> nn.Module:
        """The transformer, of which all or a part trains; it is `Shardable`."""

    @abstractmethod
    def frozen_modules(self) -> dict[str, nn.Module]:
        """Codecs and encoders by their names; they never train."""

    def training_cost(self, batch: ClipBatch) -> StepCost | None:
        """FLOPs and tokens of a training step on a batch of these shapes (`CountsSteps`); None where nobody counts."""
        del batch
        return None

    def transformer_shapes(self) -> nn.Module:
        """The transformer on the meta device, as `trained_transformer` is without its values."""
        if not self._shapes:
            self._shapes.append(meta_twin(self.trained_transformer()))
        return self._shapes[0]

    @property
    def frame_step(self) -> int | None:
        """Frames by which clips may differ in length: the video codec's temporal factor; None without a codec.

        Data modules read it when they are set up.
        """
        codecs = [part for part in self.frozen_modules().values() if isinstance(part, VideoCodec)]
        return codecs[0].temporal_factor if codecs else None

    @abstractmethod
    def check_given(self, given: Collection[str]) -> None:
        """Compares what a data set of the user's own gives beside images and captions with what is generated from.

        Data modules that predict call it when they are set up.

        Args:
            given: of ``sounds``, ``scenes``, ``transcripts``, ``references`` and ``whole_videos``.

        Raises:
            InputError: if something is missing, or would be ignored.
        """

    @abstractmethod
    def encode_conditions(self, batch: ClipBatch) -> Conditions:
        """What the clips of ``batch`` are generated from: encoded once, shared by all variants."""

    @abstractmethod
    def generation(self, encoded: Conditions, batch: ClipBatch, variant: str | None, label: str) -> Generation:
        """The guided clips, or one of the variants; every call with the same ``encoded`` starts from the same noise.

        Args:
            encoded: what `encode_conditions` made of ``batch``.
            batch: the clips.
            variant: a name out of ``variants``, or None for the guided clips.
            label: what the progress bar says.
        """

    def train(self, mode: bool = True) -> Self:
        """Training mode for the transformer only; codecs and encoders stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen_modules().values():
            part.eval()
        return self

    def configure_optimizers(self) -> Any:
        """One group with and one without weight decay (norms and biases), trainable parameters only.

        Raises:
            InputError: if nothing trains.
        """
        trainable = [p for p in self.parameters() if p.requires_grad]
        if not trainable:
            raise InputError(f"nothing to train: {self.why_nothing_trains}.")
        return scheduled(self, self.optimizer(parameter_groups(trainable)), self.lr_scheduler)

    def drawn_for(self, batch: ClipBatch, batch_idx: int) -> list[str]:
        """What is drawn in training for each clip of a batch, in words, for errors; nothing where it is not known."""
        return []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm that `NaNGuard` has found, if it has, so that all gradients are read once."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def configure_model(self) -> None:
        """Shards the transformer if the strategy shards; codecs and encoders are whole on every device."""
        transformer = self.trained_transformer()
        # called for fit, validate, test and predict alike, so it must do no harm a second time
        if self.device_mesh is None:
            for parameter in transformer.parameters():
                if parameter.requires_grad:
                    # Steps of the optimizer are lost in bfloat16; sharding keeps what trains in float32 as well.
                    parameter.data = parameter.data.float()
        elif not is_sharded(transformer):
            # cannot be found once every process has a part of the tensors
            self.identities()
            self.transformer_shapes()
            strategy = self.trainer.strategy
            mesh = getattr(strategy, "sharding_mesh", self.device_mesh["data_parallel"])
            how = getattr(strategy, "sharding", DEFAULT_SHARDING)
            cast(Shardable, transformer).shard(mesh, strategy.root_device, how)

    def split_context(self, mesh: DeviceMesh) -> None:
        """Share the tokens of every clip among the processes of ``mesh``; the strategy calls it.

        Raises:
            InputError: if the transformer cannot share them.
        """
        transformer = self.trained_transformer()
        if not isinstance(transformer, SharesTokens):
            raise InputError(
                f"trainer.strategy.context_parallel_size is {mesh.size()}, but {type(transformer).__name__} cannot "
                "share the tokens of a clip: set it to 1."
            )
        self.transformer_shapes()  # a copy, which there is none of a group of processes
        transformer.split_context(mesh)

    def global_batch_index(self, batch: ClipBatch, batch_idx: int) -> int:
        """Index of a training batch in the endless training order of all processes.

        Counted from the data's position: what is drawn for a batch depends neither on interruptions nor on how many
        processes share the work.
        """
        if batch.position is not None:
            # positions count samples of all processes, and batches are alike in size
            return batch.position // len(batch)
        if self.run is None:
            return batch_idx
        place = data_place(self.run)
        return batch_idx * place.size + place.rank

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Without waiting for the copy, which Lightning does for plain tensors alone."""
        if isinstance(batch, Movable):
            return batch.to(device, non_blocking=True)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_validation_start(self) -> None:
        """Reads the codecs and encoders that a training on encoded clips did without."""
        self._load_parts()

    def on_test_start(self) -> None:
        """As `on_validation_start`."""
        self._load_parts()

    def on_predict_start(self) -> None:
        """As `on_validation_start`."""
        self._load_parts()

    def _load_parts(self) -> None:
        for part in self.frozen_modules().values():
            load(part, self.device)

    def _posterior_seeds(self, batch: ClipBatch, index: int) -> list[int] | None:
        """One for each clip, by its place in the training order; None where means are taken."""
        if not self.sample_posterior:
            return None
        first = index * len(batch)
        return [mixed_seed("posterior", self.noise_seed, first + row) for row in range(len(batch))]

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generation:  # type: ignore[override]
        """Guided generation and the variants asked for; callbacks judge them."""
        return self._evaluate(batch, "validating")

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generation:  # type: ignore[override]
        """As `validation_step`."""
        return self._evaluate(batch, "testing")

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> Generation:
        """Guided generation alone."""
        with self._weights_for_sampling():
            return self._judged(self.generation(self.encode_conditions(batch), batch, None, "generating"))

    def _evaluate(self, batch: ClipBatch, label: str) -> Generation:
        with self._weights_for_sampling():
            encoded = self.encode_conditions(batch)
            variants = {name: self.generation(encoded, batch, name, f"{label}, {name}") for name in self.variants}
            return self._judged(replace(self.generation(encoded, batch, None, label), variants=variants))

    def _weights_for_sampling(self) -> AbstractContextManager[None]:
        """Gathered once for all steps, where the strategy shards and is asked to."""
        if self.run is None or not getattr(self.run.strategy, "gather_once_in_sampling", False):
            return nullcontext()
        return kept_gathered(self.trained_transformer())

    def _judged(self, made: Generation) -> Generation:
        """Of processes that share clips all have the same ones: one of them shows them, the others' do not count."""
        if self.run is None or not data_place(self.run).among_equals:
            return made
        none = torch.zeros_like(made.valid_mask())
        return replace(made, valid=none, variants={name: replace(v, valid=none) for name, v in made.variants.items()})

    @property
    def shows_progress(self) -> bool:
        """Whether this process draws bars."""
        return self.run is None or self.run.is_global_zero


def parameter_groups(trainable: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """One group with and one without weight decay (norms and biases), for an optimizer."""
    groups: list[dict[str, Any]] = [
        # norms and biases are vectors: decay would pull their scales to zero
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def batch_name(batch: ClipBatch, batch_idx: int, rank: int) -> str:
    """What random numbers for a training batch are drawn by.

    A position is the batch's among those of all processes: what is drawn does not depend on how many there are.
    """
    return f"{batch_idx}-{rank}" if batch.position is None else f"{batch.position}-0"


def clip_names(batch: ClipBatch, batch_idx: int, rank: int) -> list[str]:
    """What random numbers for each clip of a training batch are drawn by: its place in the training order.

    Neither the number of processes nor interruptions show in a draw.
    """
    if batch.position is None:
        return [f"{batch_name(batch, batch_idx, rank)}-{row}" for row in range(len(batch))]
    return [str(batch.position + row) for row in range(len(batch))]


def host_generator(generator: torch.Generator) -> torch.Generator:
    """Where draws come from that the host reads: ``generator`` itself, or on a GPU one on the host of its seed.

    Encoders take lists of texts, so that the host must know which are dropped; reading that from the device would make
    it wait for all of the step before.
    """
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(mixed_seed("dropped", generator.initial_seed()))


def scheduled(
    module: L.LightningModule, optimizer: torch.optim.Optimizer, lr_scheduler: LRSchedulerCallable | None
) -> Any:
    """What ``configure_optimizers`` returns: the optimizer and, if asked for, a schedule stepped with it.

    On a GPU Adam and AdamW step in one kernel unless ``fused`` or ``foreach`` says otherwise (`prefer_fused`).

    A schedule that follows a metric (``lightning.pytorch.cli.ReduceLROnPlateau``) is told of one of the training after
    every step, and of any other after every validation.

    Raises:
        InputError: if a schedule follows a metric and does not say which, or cannot be told of it in time.
    """
    prefer_fused(optimizer)
    keep_state_plain(optimizer)
    if lr_scheduler is None:
        return optimizer
    schedule = lr_scheduler(optimizer)
    # by steps: a run that is bounded by steps is one endless epoch
    config: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
    if isinstance(schedule, ReduceLROnPlateau):
        monitor = getattr(schedule, "monitor", None)
        if monitor is None:
            raise InputError("lr_scheduler: ReduceLROnPlateau has no monitor; use lightning.pytorch.cli's, which has")
        config["monitor"] = monitor
        if not monitor.startswith(("train/", "loss")):
            trainer, interval = module.trainer, module.trainer.val_check_interval
            epochs = trainer.check_val_every_n_epoch
            by_steps, by_epochs = isinstance(interval, int), interval == 1.0
            # Lightning counts what lies between two steps of a schedule in batches of one epoch, or in epochs
            if by_steps and epochs is None and (trainer.max_epochs or -1) > 0:
                when = "every so many steps across the epochs of trainer.max_epochs"
            elif by_steps and (epochs or 1) > 1:
                when = f"every so many steps of every {epochs}. epoch"
            elif not by_steps and not by_epochs:
                when = f"at a val_check_interval of {interval}"
            else:
                when = None
            if when is not None:
                raise InputError(
                    f"lr_scheduler: ReduceLROnPlateau cannot follow validations that come {when}; give "
                    "trainer.max_steps and a number of steps, or a val_check_interval of 1.0"
                )
            # not strict: a run that goes on from a validation's checkpoint has no metric until the next one
            config["strict"] = False
            # in batches of an epoch, as Lightning counts both
            config |= {"frequency": interval} if by_steps else {"interval": "epoch", "frequency": epochs or 1}
    return {"optimizer": optimizer, "lr_scheduler": config}
