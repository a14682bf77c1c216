"""Harmony: joint generation of video and sound, trained across tasks and sampled away from silence and stillness."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from tqdm.auto import tqdm

from components.backbones.harmony.checkpoint import save_harmony
from components.backbones.harmony.lora import base_identity, trained_names
from components.backbones.harmony.model import HarmonyTransformer, Modality
from components.backbones.lora import LoRAConfig, dropout_drawn_from
from components.backbones.sharding import whole
from components.contracts import (
    AudioCodec,
    ClipBatch,
    Generation,
    TextEncoder,
    TranscriptEncoder,
    VideoCodec,
    clip_generator,
    mixed_seed,
)
from components.errors import InputError
from components.guidance.sync_cfg import SyncCFG
from components.objectives.cross_task import CrossTaskSynergy
from components.samplers.joint_sampler import JointSampler
from components.samplers.sampling_noise import ClipNoise
from components.weights.identity import Identity, identity_of
from components.weights.pretrained import builds_shapes_only
from lightning_modules.base import GenerativeModule
from lightning_modules.harmony.adapters import LORA_KEY, adapted_towers, check_layouts, layouts, tower_name
from lightning_modules.harmony.conditions import DrivenTask, EncodedClips, HarmonyConditions
from lightning_modules.harmony.inputs import (
    HarmonyInputs,
    Variant,
    carries_motion,
    carries_sound,
    check_parts_fit,
    check_variants,
)
from lightning_modules.harmony.modality_watch import ModalityWatch
from lightning_modules.harmony.rows import HarmonyRows
from lightning_modules.harmony.stages import Stage, begin_from, freeze_for, part_of


class HarmonyModule(GenerativeModule[EncodedClips]):
    """Trains a `HarmonyTransformer` with Cross-Task Synergy, stage by stage, and samples from it with SyncCFG.

    Args:
        transformer: the dual tower.
        audio_codec: sound to latents and back; frozen.
        text_encoder: prompts to tokens, for the video and for the acoustic scene; frozen.
        stage: ``audio`` (sound from text and words), ``timbre`` (and a reference voice) or ``joint``. The first two run
            the audio tower alone.
        video_codec: pictures to latents and back, frozen; stage joint needs it.
        transcript_encoder: spoken words to tokens, frozen; None for a transformer that takes none.
        optimizer: builds the optimizer from parameter groups (weights; vectors, which get no weight decay).
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        tasks: Cross-Task Synergy: which tasks, weights and noise levels.
        sampler: how latents are sampled, including the guidance.
        train_video: stage joint trains the video tower.
        train_audio: stage joint trains the audio tower.
        video_lora: train adapters in the video tower instead of its weights, which stay frozen.
        audio_lora: the same for the audio tower, in any stage; what no Wan tower has (null reference, type vectors,
            transcript embedder) trains whole beside them.
        init_from: checkpoint of the previous stage whose weights this one begins with.
        num_audio_latents: latents of every sound; None derives them from the clips' duration.
        num_reference_latents: longest reference, in latents.
        reference_dropout: probability of training a row on the null reference.
        text_dropout: probability of training a row on the empty prompt.
        transcript_dropout: probability of training a row on the empty transcript.
        generates: what validation, test and prediction make of a clip in stage joint: ``joint``, ``audio_to_video`` or
            ``video_to_audio``.
        from_image: generated videos begin with the clip's first frame.
        still_without_image: the sound's anchor where there is no image: a ``grey`` still or ``none``.
        negative_prompt: what text guidance pushes the video away from.
        negative_scene: what text guidance pushes the sound away from.
        negative_transcript: words of the negative branch; None keeps the transcript.
        variants: what validation generates besides: ``no_synccfg`` (the same without SyncCFG), ``audio_to_video`` and
            ``video_to_audio`` (one modality of the clip given, the other generated for it).
        patience: steps without content or gradient of a modality that end the run.
        noise_seed: seed of everything random in training and sampling.

    Raises:
        InputError: if parts do not fit each other or the stage.
    """

    why_nothing_trains = "train_video and train_audio are false and the transformer has no interaction"

    def __init__(
        self,
        transformer: HarmonyTransformer,
        audio_codec: AudioCodec,
        text_encoder: TextEncoder,
        stage: Stage = "joint",
        video_codec: VideoCodec | None = None,
        transcript_encoder: TranscriptEncoder | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        tasks: CrossTaskSynergy | None = None,
        sampler: JointSampler | None = None,
        train_video: bool = True,
        train_audio: bool = True,
        video_lora: LoRAConfig | None = None,
        audio_lora: LoRAConfig | None = None,
        init_from: str | None = None,
        num_audio_latents: int | None = None,
        num_reference_latents: int = 157,
        reference_dropout: float = 0.1,
        text_dropout: float = 0.1,
        transcript_dropout: float = 0.1,
        generates: Literal["joint", "audio_to_video", "video_to_audio"] = "joint",
        from_image: bool = True,
        still_without_image: Literal["grey", "none"] = "grey",
        negative_prompt: str = "",
        negative_scene: str = "",
        negative_transcript: str | None = "",
        variants: Sequence[Variant] = (),
        patience: int = 50,
        noise_seed: int = 0,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, variants, noise_seed)
        check_variants(variants, generates if stage == "joint" else "audio")
        self.lora = adapted_towers(video_lora, audio_lora)
        trained = freeze_for(transformer, stage, train_video, train_audio, self.lora)
        if stage == "joint" and video_codec is None:
            raise InputError("stage joint encodes videos: give video_codec.")
        check_parts_fit(transformer, audio_codec, video_codec, text_encoder, transcript_encoder)
        self.transformer = transformer
        self.audio_codec = audio_codec.requires_grad_(False)
        self.video_codec = None if video_codec is None else video_codec.requires_grad_(False)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.transcript_encoder = None if transcript_encoder is None else transcript_encoder.requires_grad_(False)
        self.stage = stage
        self.active: tuple[Modality, ...] = ("video", "audio") if stage == "joint" else ("audio",)
        side_step = 1 if transformer.video is None else transformer.video.patch_size[1]
        self.inputs = HarmonyInputs(
            audio_codec,
            text_encoder,
            transcript_encoder,
            video_codec,
            transformer.clock,
            side_step * (1 if video_codec is None else video_codec.spatial_factor),
            num_audio_latents,
            num_reference_latents,
        )
        self.tasks = tasks or CrossTaskSynergy()
        self.sampler = sampler or JointSampler()
        self.watch = ModalityWatch(self.active, trained, patience)
        self._seen: dict[str, float] = {}
        self.rows = HarmonyRows(
            self.inputs,
            self.tasks,
            self.active,
            stage == "timbre",
            {"reference": reference_dropout, "text": text_dropout, "transcript": transcript_dropout},
        )
        self.conditions = HarmonyConditions(
            self.inputs,
            generates if stage == "joint" else "audio",
            from_image,
            still_without_image,
            negative_prompt,
            negative_scene,
            negative_transcript,
        )
        if init_from is not None and not builds_shapes_only():
            frozen = {name: identity_of(part) for name, part in self.frozen_modules().items()}
            begin_from(init_from, transformer, stage, frozen, self.lora)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Cross-task loss of one batch."""
        index = self.global_batch_index(batch, batch_idx)
        generator = torch.Generator(self.device).manual_seed(mixed_seed(self.noise_seed, index))
        rows, arguments = self.rows.draw(batch, generator)
        drops = any(config.dropout for config in self.lora.values())
        seed = mixed_seed("dropout", self.noise_seed, index)
        with dropout_drawn_from(seed, self.device) if drops else nullcontext():
            v_v, v_a = self.transformer(**arguments, active=self.active)
        loss, errors = self.tasks.loss(rows, v_v, v_a)

        carries = {"audio": carries_sound(batch)}
        if "video" in self.active:
            carries["video"] = carries_motion(batch)
        self.watch.add(errors, carries)
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note how strongly every part is pulled, before gradients are clipped."""
        gradients: dict[str, list[Tensor]] = {part: [] for part in self.watch.parts}
        for name, parameter in self.transformer.named_parameters():
            if parameter.grad is not None:
                gradients[part_of(name)].append(parameter.grad)
        norms = {part: whole(torch.nn.utils.get_total_norm(held)) for part, held in gradients.items()}
        self.watch.add_gradients(norms)

    def on_train_batch_end(self, outputs: Any, batch: ClipBatch, batch_idx: int) -> None:
        """Log what the watch has seen on all ranks in the last whole logging interval."""
        if self.watch.num_steps >= getattr(self.trainer, "log_every_n_steps", 50):
            found = self.watch.flush(lambda tensor: self.trainer.strategy.reduce(tensor, reduce_op="sum"))
            self._seen = {f"train/{name}": value for name, value in found.items()}
        self.log_dict(self._seen, on_step=True, batch_size=len(batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also say which stage the weights come from, and what adapters they are."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[LORA_KEY] = layouts(self.lora)
        checkpoint["harmony_stage"] = self.stage

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage or of other adapters.

        Raises:
            InputError: naming both.
        """
        there = checkpoint.get("harmony_stage")
        if there != self.stage:
            raise InputError(
                f"{self._named_checkpoint()} was trained in stage {there}, but this is stage {self.stage}: to begin a "
                "stage with it, give it as init_from instead."
            )
        check_layouts(checkpoint, self.lora, self._named_checkpoint())
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
        """Video, sound or both for the clips of ``batch``, by ``generates``.

        Args:
            batch: captions, transcripts, references, and what is given: first frames, sounds or videos.
            guidance: instead of the sampler's own.
            label: what the progress bar says.
        """
        return self.sample(self.encode_conditions(batch), batch, guidance, label)

    @torch.no_grad()
    def encode_conditions(self, batch: ClipBatch) -> EncodedClips:
        """Everything that is encoded, once for all variants.

        Raises:
            InputError: if what the task is driven by is missing or does not fit.
        """
        return self.conditions.encode(batch, self.sampler.guidance)

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
        pixels, sound = batch.video.float() / 255, batch.audio
        if "video" in encoded.shapes and video is not None and self.video_codec is not None:
            pixels = self.video_codec.decode(video).float().add(1).div(2).clamp_(0, 1)
        if "audio" in encoded.shapes and audio is not None:
            # the sound is as long as the pictures; what the codec's last latent has too much or too little is cut
            seconds = pixels.shape[1] / batch.fps if pixels.shape[1] > 1 else batch.audio.shape[1] / batch.sample_rate
            sound = self.audio_codec.decode(audio).float()
            sound = nn.functional.pad(sound, (0, round(seconds * self.audio_codec.sample_rate) - sound.shape[1]))
        return Generation(pixels, batch.fps, sound, self.audio_codec.sample_rate, batch, valid=batch.valid)

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
            bases = {tower_name(side): base_identity(self.transformer, side, trained) for side in self.lora}
            self._identities = super().identities() | bases
        return self._identities

    def trained_transformer(self) -> HarmonyTransformer:
        """The dual tower."""
        return self.transformer

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Codecs and encoders."""
        names = ("audio_codec", "video_codec", "text_encoder", "transcript_encoder")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _noise(self, ids: Sequence[str], modality: Modality, shape: tuple[int, ...]) -> Tensor:
        generators = [clip_generator(f"{modality} of {name}", self.noise_seed, self.device) for name in ids]
        return ClipNoise(generators).initial((len(ids), *shape))
