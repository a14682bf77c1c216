"""Harmony: joint generation of video and sound, trained across tasks and sampled away from silence and stillness.

Source: Harmony (arXiv 2511.21579). A training step passes `HarmonyRows` (clips to rows of all tasks), the transformer,
`CrossTaskSynergy.loss` and `ModalityWatch`; sampling passes `HarmonyConditions` and `JointSampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from tqdm.auto import tqdm

from components.backbones.data_place import context_size
from components.backbones.harmony.checkpoint import save_harmony
from components.backbones.harmony.lora import base_identity, trained_names
from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import dropout_drawn_from
from components.backbones.sharding import whole
from components.contracts import (
    AudioCodec,
    ClipBatch,
    Generation,
    Modality,
    TextEncoder,
    TranscriptEncoder,
    VideoCodec,
    clip_generator,
    mixed_seed,
)
from components.counting.flops import StepCost
from components.counting.step_shape import StepShape
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.media.activity import carries_motion, carries_sound
from components.objectives.cross_task import CrossTaskSynergy
from components.objectives.task_losses import TASKS
from components.samplers.joint_sampler import JointSampler
from components.samplers.sampling_noise import ClipNoise
from components.weights.identity import Identity, identity_of
from components.weights.named_files import names_files
from components.weights.pretrained import builds_shapes_only
from lightning_modules.base import GenerativeModule
from lightning_modules.harmony.checks import check_parts_fit, check_pictures
from lightning_modules.harmony.conditions import (
    DrivenTask,
    EncodedClips,
    GenerationConfig,
    HarmonyConditions,
    NegativesConfig,
)
from lightning_modules.harmony.inputs import (
    DropoutConfig,
    HarmonyInputs,
    HarmonyRows,
    transcripts_of,
)
from lightning_modules.harmony.modality_watch import ModalityWatch
from lightning_modules.harmony.stages import (
    LORA_KEY,
    STAGE_KEY,
    CurriculumConfig,
    begin_from,
    check_layouts,
    freeze_for,
    layouts,
    needed_modalities,
    tower_name,
)
from lightning_modules.harmony.step_cost import HarmonyShapes


@names_files("curriculum.init_from")
class HarmonyModule(GenerativeModule[EncodedClips]):
    """Trains a `HarmonyTransformer` with Cross-Task Synergy, stage by stage, and samples from it with SyncCFG.

    Args:
        transformer: the dual tower.
        audio_codec: sound to latents and back; frozen.
        text_encoder: prompts to tokens, for the video and for the acoustic scene; frozen.
        video_codec: pictures to latents and back, frozen; stages video and joint need it.
        transcript_encoder: spoken words to tokens, frozen; None for a transformer that takes none.
        optimizer: builds the optimizer from parameter groups (weights; vectors, which get no weight decay).
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        tasks: Cross-Task Synergy: which tasks, weights and noise levels.
        sampler: how latents are sampled, including the guidance.
        curriculum: the stage, what trains in it and what it begins with.
        dropout: how often a training row lacks a condition.
        generation: what validation, test and prediction make of a clip.
        negatives: what text guidance pushes away from.
        noise_seed: seed of everything random in training and sampling; None takes the experiment's
            ``seed_everything``, and 0 without one.
        sample_posterior: draw the latents of training clips from the codecs' posteriors, anew in every step; their
            means are taken otherwise, as they are where a codec has none.

    Raises:
        InputError: if parts do not fit each other or the stage.
    """

    frozen_arguments = {  # noqa: RUF012
        name: name for name in ("audio_codec", "text_encoder", "video_codec", "transcript_encoder")
    }
    takes_sounds_alone = True
    logged_names = ("loss", "train/loss", "train/*/*", "train/clips*")
    why_nothing_trains = (
        "curriculum.train_video and curriculum.train_audio are false and the transformer has no interaction"
    )

    def __init__(
        self,
        transformer: HarmonyTransformer,
        audio_codec: AudioCodec,
        text_encoder: TextEncoder,
        video_codec: VideoCodec | None = None,
        transcript_encoder: TranscriptEncoder | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        tasks: CrossTaskSynergy | None = None,
        sampler: JointSampler | None = None,
        curriculum: CurriculumConfig = CurriculumConfig(),  # noqa: B008  # frozen, as all four
        dropout: DropoutConfig = DropoutConfig(),  # noqa: B008
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008
        negatives: NegativesConfig = NegativesConfig(),  # noqa: B008
        noise_seed: int | None = None,
        sample_posterior: bool = False,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, generation.variants, noise_seed, sample_posterior)
        task = generation.task_of(curriculum.stage)
        trained = freeze_for(transformer, curriculum)
        if "video" in curriculum.modalities and video_codec is None:
            raise InputError(f"stage {curriculum.stage} encodes videos: give video_codec.")
        check_parts_fit(transformer, audio_codec, video_codec, text_encoder, transcript_encoder)
        self.transformer = transformer
        self.audio_codec = audio_codec.requires_grad_(False)
        self.video_codec = None if video_codec is None else video_codec.requires_grad_(False)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.transcript_encoder = None if transcript_encoder is None else transcript_encoder.requires_grad_(False)
        self.curriculum = curriculum
        patch = 1 if transformer.video is None else transformer.video.patch_size[1]
        self.inputs = HarmonyInputs(
            audio_codec,
            text_encoder,
            transcript_encoder,
            video_codec,
            curriculum.future_temporal_factor if video_codec is None else video_codec.temporal_factor,
            patch * (1 if video_codec is None else video_codec.spatial_factor),
        )
        self.tasks = tasks or CrossTaskSynergy()
        self.sampler = sampler or JointSampler()
        self.watch = ModalityWatch(curriculum.modalities, trained, curriculum.patience)
        self._watched: dict[str, Tensor] = {}
        needs_reference = curriculum.stage == "timbre"
        self.rows = HarmonyRows(self.inputs, self.tasks, curriculum.modalities, needs_reference, dropout)
        self.conditions = HarmonyConditions(self.inputs, task, generation, negatives)
        if curriculum.init_from is not None and not builds_shapes_only():
            frozen = {name: identity_of(part) for name, part in self.frozen_modules().items()}
            begin_from(curriculum.init_from, transformer, curriculum, frozen)

    needed_modalities = staticmethod(needed_modalities)

    def on_fit_start(self) -> None:
        """Refuse a training of which no clip has a picture that is to be learnt.

        Raises:
            InputError: if all training clips are sounds alone.
        """
        super().on_fit_start()
        if "video" in self.curriculum.modalities:
            check_pictures(getattr(self.trainer, "datamodule", None), self.curriculum.stage)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Cross-task loss of one batch."""
        index = self.global_batch_index(batch, batch_idx)
        rows, arguments = self.rows.draw(batch, self._generator(index), self._posterior_seeds(batch, index))
        # Dropout inside adapters is the one draw that torch makes itself: from a seed of its own, so that a resumed run
        # repeats it.
        drops = any(config.dropout for config in self.curriculum.lora.values())
        seed = mixed_seed("dropout", self.noise_seed, index)
        with dropout_drawn_from(seed, self.device) if drops else nullcontext():
            v_v, v_a = self.transformer(**arguments, active=self.curriculum.modalities)  # [R, C, T, ...] each
        loss, errors = self.tasks.loss(rows, v_v, v_a)

        looks: dict[Modality, Callable[[ClipBatch], Tensor]] = {"video": carries_motion, "audio": carries_sound}
        self.watch.add(errors, {side: looks[side](batch) for side in self.curriculum.modalities})
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss

    def drawn_for(self, batch: ClipBatch, batch_idx: int) -> list[str]:
        """Tasks of each clip, each with the noise levels of what it learns."""
        index = self.global_batch_index(batch, batch_idx)
        rows, _ = self.rows.draw(batch, self._generator(index), self._posterior_seeds(batch, index))
        told: list[list[str]] = [[] for _ in batch.ids]
        for row, task in enumerate(rows.tasks.tolist()):
            noisy = {"video": rows.video, "audio": rows.audio}
            levels = [f"{name} noise {one.sigma[row].item():.2f}" for name, one in noisy.items() if one is not None]
            told[row % len(batch)].append(f"{TASKS[task]}: {', '.join(levels)}")
        return ["; ".join(of) for of in told]

    @torch.no_grad()
    def training_cost(self, batch: ClipBatch) -> StepCost:
        """Of a step on a batch of these shapes."""
        side = 1 if self.video_codec is None else self.video_codec.spatial_factor
        text = batch.text_features or self.inputs.prompts(batch.captions)
        words = None if batch.prepared is None else batch.prepared.transcript_features
        words = words or self.inputs.words(transcripts_of(batch), batch.ids)
        return self.step_shapes().cost(StepShape.of(batch, side, self.audio_codec.latent_hop, text, words))

    def step_shapes(self) -> HarmonyShapes:
        """Training batches on the meta device."""
        both = "video" in self.curriculum.modalities and "audio" in self.curriculum.modalities
        return HarmonyShapes(
            transformer=cast(HarmonyTransformer, self.transformer_shapes()),
            audio_codec=self.audio_codec,
            video_codec=self.video_codec,
            modalities=self.curriculum.modalities,
            rows_per_clip=len(TASKS) if both and self.tasks.task_mode == "all" else 1,
            temporal_factor=self.inputs.temporal_factor,
            text_dim=self.text_encoder.dim,
            transcript_dim=None if self.transcript_encoder is None else self.transcript_encoder.dim,
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note how strongly every part is pulled, before gradients are clipped."""
        gradients: dict[str, list[Tensor]] = {part: [] for part in self.watch.parts}
        for name, parameter in self.transformer.named_parameters():
            if parameter.grad is not None:
                gradients[part_of(name)].append(parameter.grad)
        if not any(gradients.values()):
            return  # the step is skipped
        # norms of shards are shards too: ``whole`` adds them up over all ranks
        norms = {part: whole(torch.nn.utils.get_total_norm(held)) for part, held in gradients.items()}
        self.watch.add_gradients(norms)

    def on_train_batch_end(self, outputs: Any, batch: ClipBatch, batch_idx: int) -> None:
        """Log what the watch has counted on all ranks in the last whole logging interval."""
        if self.watch.num_steps >= getattr(self.trainer, "log_every_n_steps", 50):
            # processes that share clips have counted the same ones
            size = context_size(self.trainer)
            found = self.watch.flush(lambda tensor: self.trainer.strategy.reduce(tensor, reduce_op="sum") / size)
            # copied once, without waiting: of numbers Lightning would make a tensor on the device in every step
            values = torch.tensor(list(found.values())).to(self.device, non_blocking=True)
            self._watched = {f"train/{name}": value for name, value in zip(found, values.unbind(), strict=True)}
        # the last window's values in every step: Lightning logs on its own beat
        self.log_dict(self._watched, on_step=True, batch_size=len(batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also say which stage the weights come from, and what adapters they are."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[LORA_KEY] = layouts(self.curriculum.lora)
        checkpoint[STAGE_KEY] = self.curriculum.stage

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage or of other adapters.

        Raises:
            InputError: naming both.
        """
        there, stage = checkpoint.get(STAGE_KEY), self.curriculum.stage
        if there != stage:
            raise InputError(
                f"{self._named_checkpoint()} was trained in stage {there}, but this is stage {stage}: to begin a stage "
                "with it, give it as curriculum.init_from instead."
            )
        check_layouts(checkpoint, self.curriculum.lora, self._named_checkpoint())
        super().on_load_checkpoint(checkpoint)

    @torch.no_grad()
    def generation(self, encoded: EncodedClips, batch: ClipBatch, variant: str | None, label: str) -> Generation:
        """Clips with the sampler's guidance, or as the variant says."""
        if variant is None:
            return self.sample(encoded, batch, label=label)
        if variant == "no_synccfg":
            return self.sample(encoded, batch, self.without_sync(), label)
        driven = self.conditions.driven(encoded, batch, cast(DrivenTask, variant))
        return self.sample(driven, batch, label=label)

    def without_sync(self) -> SyncCFG:
        """The sampler's guidance without SyncCFG (the variant ``no_synccfg``)."""
        guidance = self.sampler.guidance
        return replace(guidance, guidance="text" if "text" in guidance.guidance else "none")

    def generate(self, batch: ClipBatch, guidance: SyncCFG | None = None, label: str = "generating") -> Generation:
        """Video, sound or both for the clips of ``batch``, by ``generation.task``.

        Args:
            batch: captions, transcripts, references, and what is given: first frames, sounds or videos.
            guidance: instead of the sampler's own.
            label: what the progress bar says.
        """
        return self.sample(self.encode_conditions(batch, guidance), batch, guidance, label)

    @torch.no_grad()
    def encode_conditions(self, batch: ClipBatch, guidance: SyncCFG | None = None) -> EncodedClips:
        """Everything that is encoded, once for all variants.

        Args:
            batch: the clips.
            guidance: what is encoded for, with its anchors and negative texts; None for the sampler's own.

        Raises:
            InputError: if what the task is driven by is missing or does not fit.
        """
        return self.conditions.encode(batch, guidance or self.sampler.guidance)

    @torch.no_grad()
    def sample(
        self,
        encoded: EncodedClips,
        batch: ClipBatch,
        guidance: SyncCFG | None = None,
        label: str = "generating",
    ) -> Generation:
        """Generated clips; every call with the same ``encoded`` starts from the same noise.

        Args:
            encoded: what `encode_conditions` made of ``batch``.
            batch: the clips.
            guidance: instead of the sampler's own.
            label: what the progress bar says.
        """
        noise = {f"{name}_noise": self._noise(encoded.ids, name, shape) for name, shape in encoded.shapes.items()}
        with tqdm(
            total=self.sampler.num_steps, desc=label, unit="step", leave=False, disable=not self.shows_progress
        ) as bar:
            video, audio = self.sampler.sample(
                self.transformer,
                encoded.conditions,
                **noise,
                **encoded.given,
                guidance=guidance,
                progress=bar.update,
            )
        pixels, sound = batch.video.float() / 255, batch.audio  # what is not generated was given
        if "video" in encoded.shapes and video is not None and self.video_codec is not None:
            pixels = self.video_codec.decode(video).float().add(1).div(2).clamp_(0, 1)
        if "audio" in encoded.shapes and audio is not None:
            # the sound is as long as the pictures; what the codec's last latent has too much or too little is cut
            seconds = pixels.shape[1] / batch.fps if pixels.shape[1] > 1 else batch.audio.shape[1] / batch.sample_rate
            sound = self.audio_codec.decode(audio).float()
            sound = nn.functional.pad(sound, (0, round(seconds * self.audio_codec.sample_rate) - sound.shape[1]))
            return Generation(pixels, batch.fps, sound, self.audio_codec.sample_rate, batch, valid=batch.valid)
        return Generation(pixels, batch.fps, sound, batch.sample_rate, batch, valid=batch.valid)

    def save_pretrained(self, folder: Path) -> None:
        """Write the transformer, trained and frozen weights, into ``folder``."""
        save_harmony(self.transformer, folder)

    def frozen_parts(self) -> dict[str, nn.Module]:
        """What the trained weights depend on: the transformer where a part of it is frozen, codecs and encoders."""
        trains_whole = all(parameter.requires_grad for parameter in self.transformer.parameters())
        return ({} if trains_whole else {"transformer": self.transformer}) | self.frozen_modules()

    def identities(self) -> dict[str, Identity]:
        """Also of the weights that adapters stand on, tower by tower: a later stage may load them in another way."""
        if self._identities is None:
            trained = trained_names(self.transformer)
            bases = {tower_name(side): base_identity(self.transformer, side, trained) for side in self.curriculum.lora}
            self._identities = super().identities() | bases
        return self._identities

    def check_given(self, given: Collection[str]) -> None:
        """What ``generation.task`` is driven by, and nothing that it does not read.

        Raises:
            InputError: naming what is missing or would be ignored.
        """
        self.conditions.check_given(given)

    def trained_transformer(self) -> HarmonyTransformer:
        """The dual tower."""
        return self.transformer

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Codecs and encoders."""
        names = ("audio_codec", "video_codec", "text_encoder", "transcript_encoder")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _generator(self, index: int) -> torch.Generator:
        # from the batch's place in the training order: the same noise after a resume and on any number of processes
        return torch.Generator(self.device).manual_seed(mixed_seed(self.noise_seed, index))

    def _noise(self, ids: Sequence[str], modality: Modality, shape: tuple[int, ...]) -> Tensor:
        # seeded by clip and modality: the sound's noise is the same whether a video is generated or given
        generators = [clip_generator(f"{modality} of {name}", self.noise_seed, self.device) for name in ids]
        return ClipNoise(generators).initial((len(ids), *shape))
