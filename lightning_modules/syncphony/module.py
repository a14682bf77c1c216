"""Syncphony: audio-to-video by an autoregressive pyramid transformer whose late blocks attend to the sound."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from tqdm.auto import tqdm

from components.backbones.data_place import data_place
from components.backbones.syncphony.checkpoint import save_audio_layers
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import (
    AudioEncoder,
    AudioFeatures,
    ClipBatch,
    Generation,
    TextEncoder,
    TextFeatures,
    VideoCodec,
    clip_generator,
    mixed_seed,
)
from components.counting.flops import StepCost
from components.counting.step_shape import StepShape
from components.errors import InputError
from components.guidance.guidance import TextGuidance
from components.media.clock import longest_clip
from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.prefix_lengths import stratified_n, units_per_stage
from components.objectives.pyramid_columns import AutoregressivePyramid
from components.objectives.pyramid_objective import PyramidObjective
from components.samplers.pyramid_sampler import Conditions, PyramidSampler
from components.samplers.sampling_noise import ClipNoise
from components.weights.identity import identity_of
from components.weights.named_files import names_files
from components.weights.pretrained import builds_shapes_only
from lightning_modules.base import GenerativeModule, host_generator
from lightning_modules.syncphony.checks import (
    check_batches_cover_columns,
    check_parts_fit,
    check_pyramids_fit,
    columns_not_covered,
    needed_modalities,
)
from lightning_modules.syncphony.init_from import begin_from
from lightning_modules.syncphony.inputs import encoded_prefixes, prepared_latents, training_prompts
from lightning_modules.syncphony.step_cost import SyncphonyShapes

_VARIANT_SETTINGS: dict[str, dict[str, Any]] = {"w0": {"sync_scale": 0.0}, "off_sync": {"off_sync": True}}


@dataclass(frozen=True)
class EncodedConditions:
    """What B clips are generated from, encoded.

    Attributes:
        conditions: text features and the audio layers' keys and values.
        image: latent frame 0, ``[B, C, 1, h, w]``.
        num_latents: latent frames of the clips.
        generators: one per clip, in the state in which its sampling noise begins.
    """

    conditions: Conditions
    image: Tensor
    num_latents: int
    generators: Sequence[torch.Generator]


@names_files("init_from")
class SyncphonyModule(GenerativeModule[EncodedConditions]):
    """Trains a `SyncphonyDiT` with the motion-aware loss and samples from it with audio sync guidance.

    The same class pre-trains a backbone without sound: give the transformer ``audio_dim: null``.

    Args:
        dit: the transformer; its constructor says which parameters train.
        codec: pixels to latents and back; frozen.
        text_encoder: prompts to features; frozen.
        audio_encoder: sound to features, frozen; None for a model without audio layers.
        optimizer: builds the optimizer from parameter groups (weights; vectors, which get no weight decay).
        lr_scheduler: builds a schedule stepped after every optimizer step, or None for a constant rate.
        pyramid: how training columns are built.
        loss: the motion-aware loss.
        sampler: how latents are sampled, including the guidance scales.
        shortest_prefix: units of the shortest prefix that is trained; 2 for image-to-video (frame 0 is always given).
        text_dropout: probability of training a row on the empty prompt.
        negative_prompt: what text guidance pushes away from.
        prompt_suffix: appended to every prompt when sampling.
        variants: what validation generates besides the guided video: ``w0`` (no audio sync guidance), ``off_sync``.
        noise_seed: seed of everything random in training and sampling; None takes the experiment's
            ``seed_everything``, and 0 without one.
        sample_posterior: draw the latents of training clips from the codec's posterior, anew in every step; their mean
            is taken otherwise, as it is where the codec has none.
        export_dtype: precision of the weights `save_pretrained` writes.
        init_from: a checkpoint (whole or slim) of another training, or a folder that ``avsync export`` wrote, to begin
            with its weights alone; steps count from 0.

    Raises:
        InputError: if a variant is unknown, or codec, encoders or ``init_from`` do not fit the transformer.
    """

    frozen_arguments = {"codec": "video_codec", "text_encoder": "text_encoder", "audio_encoder": "audio_encoder"}  # noqa: RUF012
    logged_names = ("loss", "train/loss", "train/base", "train/motion", "train/base_stage?", "train/motion_stage?")
    why_nothing_trains = "dit.first_late_block leaves no late block and dit.train_head is off"

    def __init__(
        self,
        dit: SyncphonyDiT,
        codec: VideoCodec,
        text_encoder: TextEncoder,
        audio_encoder: AudioEncoder | None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        pyramid: AutoregressivePyramid | None = None,
        loss: MotionAwareLoss | None = None,
        sampler: PyramidSampler | None = None,
        shortest_prefix: int = 2,
        text_dropout: float = 0.1,
        negative_prompt: str = "",
        prompt_suffix: str = "",
        variants: Sequence[str] = (),
        noise_seed: int | None = None,
        sample_posterior: bool = False,
        export_dtype: str = "float32",
        init_from: str | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, variants, noise_seed, sample_posterior)
        unknown = sorted(set(variants) - set(_VARIANT_SETTINGS))
        if unknown:
            raise InputError(f"variants names {unknown}: choose from {list(_VARIANT_SETTINGS)}.")
        check_parts_fit(dit, codec, text_encoder, audio_encoder)
        self.dit = dit
        self.codec = codec.requires_grad_(False)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.audio_encoder = None if audio_encoder is None else audio_encoder.requires_grad_(False)
        self.pyramid = pyramid or AutoregressivePyramid()
        self.loss = loss or MotionAwareLoss()
        self.sampler = sampler or PyramidSampler()
        check_pyramids_fit(self.pyramid, self.sampler)
        self.shortest_prefix = shortest_prefix
        self.text_dropout = text_dropout
        self.negative_prompt = negative_prompt
        self.prompt_suffix = prompt_suffix
        if export_dtype not in ("float32", "bfloat16"):
            raise InputError(f"export_dtype is {export_dtype!r}: give float32 or bfloat16.")
        self.export_dtype = getattr(torch, export_dtype)
        if init_from is not None and not builds_shapes_only():
            begin_from(init_from, dit, {name: identity_of(part) for name, part in self.frozen_modules().items()})

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Motion-aware loss of one autoregressive pyramid batch."""
        index = self.global_batch_index(batch, batch_idx)
        logs = self._losses(batch, index, torch.Generator(self.device).manual_seed(self._seed(index)))
        self.log_dict({f"train/{k}": v for k, v in logs.items()}, batch_size=len(batch))
        self.log("loss", logs["loss"].detach(), prog_bar=True, logger=False, batch_size=len(batch))
        return logs["loss"]

    @torch.no_grad()
    def training_cost(self, batch: ClipBatch) -> StepCost:
        """Of a step on a batch of these shapes, in the mean over five prefix lengths."""
        text = batch.text_features or self.text_encoder(batch.captions)
        return self.step_shapes().cost(StepShape.of(batch, self.codec.spatial_factor, 1, text, None), most=5)

    def step_shapes(self) -> SyncphonyShapes:
        """Training batches on the meta device."""
        text, sound = self.text_encoder, self.audio_encoder
        rate_hz = None if sound is None else float(getattr(sound, "rate_hz", 50.0))
        parts = (cast(SyncphonyDiT, self.transformer_shapes()), self.codec, self.pyramid, self.shortest_prefix)
        return SyncphonyShapes(*parts, text.dim, text.pooled_dim, rate_hz)

    def generation(self, encoded: EncodedConditions, batch: ClipBatch, variant: str | None, label: str) -> Generation:
        """Videos for the sounds of ``batch``: guided, or as the variant says."""
        settings = {} if variant is None else _VARIANT_SETTINGS[variant]
        video = self.sample(encoded, label=label, **settings)
        return Generation(video, batch.fps, batch.audio, batch.sample_rate, batch, valid=batch.valid)

    def generate(
        self,
        batch: ClipBatch,
        sync_scale: float | None = None,
        off_sync: bool = False,
        label: str = "generating",
    ) -> Tensor:
        """Videos ``[B, T, 3, H, W]`` in [0, 1] from the first frames, captions and sound of ``batch``.

        The length is that of the batch's video, or of its sound where only a first frame is given. A clip's noise is
        seeded by its name, so it is the same in every batch and for every setting of the guidance.

        Args:
            batch: what to generate from; only frame 0 of its video is used.
            sync_scale: audio sync guidance instead of the sampler's own.
            off_sync: skip the audio layers.
            label: what the progress bar says.
        """
        return self.sample(self.encode_conditions(batch), sync_scale, off_sync, label)

    @torch.no_grad()
    def encode_conditions(self, batch: ClipBatch) -> EncodedConditions:
        """Image latent, text, keys and values of the sound: what all variants of a generation share."""
        # one frame is a first frame: the sound decides how long the clip is
        frames = batch.video.shape[1] if batch.video.shape[1] > 1 else self._frames_of_sound(batch)
        num_latents = self.codec.num_latents(frames)
        generators = [clip_generator(name, self.noise_seed, self.device) for name in batch.ids]
        image = self.codec.encode(self._pixels(batch.video[:, :1]), generators)
        prompts = [caption + self.prompt_suffix for caption in batch.captions]
        guided_by_text = TextGuidance(self.sampler.video_text_scale).enabled  # frame 0 is given, never generated
        features, factor = self._audio_features(batch), self.codec.temporal_factor
        conditions = Conditions(
            text=self.text_encoder(prompts),
            negative_text=self.text_encoder([self.negative_prompt] * len(batch)) if guided_by_text else None,
            audio=None if features is None else self.dit.encode_audio(features, num_latents, batch.fps, factor),
        )
        return EncodedConditions(conditions, image, num_latents, generators)

    @torch.no_grad()
    def sample(
        self,
        encoded: EncodedConditions,
        sync_scale: float | None = None,
        off_sync: bool = False,
        label: str = "generating",
    ) -> Tensor:
        """Videos ``[B, T, 3, H, W]`` in [0, 1]; every call with the same ``encoded`` starts from the same noise.

        Args:
            encoded: what `encode_conditions` made of a batch.
            sync_scale: audio sync guidance instead of the sampler's own.
            off_sync: skip the audio layers.
            label: what the progress bar says.
        """
        batch_size, _, _, height, width = encoded.image.shape  # of latents
        with tqdm(
            total=self.sampler.num_steps(encoded.num_latents, from_image=True),
            desc=label,
            unit="step",
            leave=False,
            disable=not self.shows_progress,
        ) as bar:
            latents = self.sampler.sample(
                self.dit,
                encoded.conditions,
                (batch_size, self.codec.latent_channels, encoded.num_latents, height, width),
                # copies, so that every variant starts from the same noise
                ClipNoise([generator.clone_state() for generator in encoded.generators]),
                image_latent=encoded.image,
                sync_scale=sync_scale,
                off_sync=off_sync,
                progress=bar.update,
            )
        return self.codec.decode(latents).float().add(1).div(2).clamp_(0, 1)

    def save_pretrained(self, folder: Path) -> None:
        """Write the transformer, late blocks merged in, as a folder in the public layout, and its audio layers."""
        self.dit.backbone.save_pretrained(folder, self.export_dtype)
        save_audio_layers(self.dit.audio_parts, folder, self.export_dtype)

    def frozen_parts(self) -> dict[str, nn.Module]:
        """What the trained weights depend on: the backbone where a part of it is frozen, codec and encoders."""
        trains_whole = all(parameter.requires_grad for parameter in self.dit.backbone.parameters())
        return ({} if trains_whole else {"backbone": self.dit.backbone}) | self.frozen_modules()

    def check_given(self, given: Collection[str]) -> None:
        """Sounds, exactly where the transformer has audio layers, and nothing else.

        Raises:
            InputError: naming what is missing or would be ignored.
        """
        if self.audio_encoder is not None and "sounds" not in given:
            raise InputError("Syncphony moves to a sound, but data.sounds is not given: give a sound for every image.")
        if self.audio_encoder is None and "sounds" in given:
            raise InputError(
                "data.sounds is given, but audio_encoder is null, so that nothing would be heard: leave it out, or "
                "give an audio_encoder and dit.audio_dim."
            )
        for name in given:
            if name != "sounds":
                raise InputError(
                    f"data.{name} is given, but Syncphony reads images, captions and sounds alone: leave it out."
                )

    def trained_transformer(self) -> SyncphonyDiT:
        """The transformer."""
        return self.dit

    def frozen_modules(self) -> dict[str, nn.Module]:
        """Codec and encoders."""
        parts = {"codec": self.codec, "text_encoder": self.text_encoder, "audio_encoder": self.audio_encoder}
        return {name: part for name, part in parts.items() if part is not None}

    @torch.no_grad()
    def drawn_for(self, batch: ClipBatch, batch_idx: int) -> list[str]:
        """Stage and noise level of each clip."""
        index = self.global_batch_index(batch, batch_idx)
        generator = torch.Generator(self.device).manual_seed(self._seed(index))
        latents, _, units, position = self._drawn(batch, index, generator)
        draws = self.pyramid.draw(latents, units, generator, position)
        told = [""] * len(batch)
        for column in self.pyramid.build(latents, units, draws, position):
            levels = column.local_sigma.tolist()
            told[column.rows] = [f"stage {column.stage}, noise {sigma:.2f} of it" for sigma in levels]
        return told

    def _seed(self, index: int) -> int:
        """Differs between runs and batches in its low 32 bits too: a generator on the CPU uses no others."""
        return mixed_seed(self.noise_seed, index, 0)

    def _pixels(self, video: Tensor) -> Tensor:
        """uint8 frames to [-1, 1], after checking that codec, patches and pyramid can divide their sides."""
        self._check_sides(*video.shape[-2:])
        return video.float().div_(127.5).sub_(1)

    def _check_sides(self, height: int, width: int) -> None:
        """Sides in pixels."""
        # every stage below the finest halves the sides once more
        step = self.codec.spatial_factor * self.dit.backbone.patch * 2 ** (self.pyramid.schedule.stages - 1)
        for name, side in (("height", height), ("width", width)):
            if side % step:
                low = max(step, side // step * step)
                raise InputError(
                    f"{name} {side} cannot be divided by codec, patches and pyramid: it must be a multiple of {step}; "
                    f"set clip.{name} to {low} or {low + step}."
                )

    def _frames_of_sound(self, batch: ClipBatch) -> int:
        """Frames of the longest clip that the sound covers and the codec can make."""
        seconds = batch.audio.shape[1] / batch.sample_rate
        frames = int(seconds * batch.fps + 0.01)  # a file some samples short of a frame still counts as that frame
        shortest = self.codec.num_frames(2)  # the image and one latent that moves
        if frames < shortest:
            raise InputError(
                f"the sound of {batch.ids[0]} lasts {seconds:.2f} s, shorter than the shortest video "
                f"({shortest / batch.fps:.2f} s): give a longer sound."
            )
        return longest_clip(frames, self.codec.temporal_factor)

    def _audio_features(self, batch: ClipBatch) -> AudioFeatures | None:
        if self.audio_encoder is None:
            return None
        if batch.audio_features is not None:
            return batch.audio_features
        with torch.no_grad():
            features: AudioFeatures = self.audio_encoder(batch.audio, batch.sample_rate)
            return features

    def _losses(self, batch: ClipBatch, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Total loss, its parts, and the parts per stage, of the batch with this global index."""
        latents, text, units, position = self._drawn(batch, index, generator)
        objective = PyramidObjective(self.pyramid, self.loss)
        audio = self._audio_features(batch)
        return objective(self.dit, self.codec, latents, text, audio, batch.fps, units, generator, position)

    @torch.no_grad()
    def _drawn(
        self, batch: ClipBatch, index: int, generator: torch.Generator
    ) -> tuple[Tensor, TextFeatures, list[int], int | None]:
        """Clean latents ``[B, C, L, h, w]``, prompts (some are dropped), prefix lengths, `_position_among_columns`."""
        # prompts are dropped per clip, all encoders together: the empty prompt is the null text of guidance
        dropped = torch.rand(len(batch), generator=host_generator(generator)) < self.text_dropout
        text = training_prompts(self.text_encoder, batch, dropped)
        seeds = self._posterior_seeds(batch, index)
        latents = prepared_latents(batch, seeds)
        if latents is None:
            num_latents = self.codec.num_latents(batch.video.shape[1])
        else:
            num_latents = latents.shape[2]
            self._check_sides(*(side * self.codec.spatial_factor for side in latents.shape[-2:]))
        num_units = self.pyramid.num_units(num_latents)
        # As rank 0 of 1: the index counts the batches of all processes already.
        position = self._position_among_columns(batch, index)
        if position is not None:
            # batches that cover the columns together take prefixes of one length, as one batch of all of them does
            index = position // lcm(len(batch), self.pyramid.num_columns)
        n = stratified_n(index, 0, 1, num_units, self.shortest_prefix, self.noise_seed)
        units = units_per_stage(n, num_units, self.pyramid.schedule.stages, self.shortest_prefix)
        if latents is None:
            prefixes = self.pyramid.prefixes(len(batch), num_latents, units, position)
            latents = encoded_prefixes(self.codec, self._pixels, batch.video, num_latents, prefixes, seeds)
        return latents, text, units, position

    def _position_among_columns(self, batch: ClipBatch, index: int) -> int | None:
        """Place of the batch in the training order, or None where it covers all columns evenly by itself.

        Raises:
            InputError: if not even the batches of all processes that make one step do.
        """
        size, columns = len(batch), self.pyramid.num_columns
        if size % columns == 0:
            return None
        batches = 1 if self.run is None else self.run.accumulate_grad_batches * data_place(self.run).size
        if size * batches % columns:
            raise InputError(columns_not_covered(size, columns))
        return index * size if batch.position is None else batch.position

    check_settings = staticmethod(check_batches_cover_columns)
    needed_modalities = staticmethod(needed_modalities)
