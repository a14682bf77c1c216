"""What Harmony trains on: clips as rows of all tasks, and what the transformer is told with each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.backbones.harmony.model import Modality
from components.contracts import ClipBatch, TextFeatures
from components.encoders.text.rows import stack_text
from components.errors import InputError
from components.objectives.cross_task import CrossTaskSynergy, TaskRows
from lightning_modules.harmony.inputs import HarmonyInputs, scenes_of, transcripts_of


@dataclass(frozen=True)
class HarmonyRows:
    """Encodes clips, drops conditions and lays the tasks out as rows of one forward pass.

    Attributes:
        inputs: codecs and encoders.
        tasks: Cross-Task Synergy.
        modalities: those that are learnt.
        needs_reference: clips must come with reference voices.
        dropout: probabilities of replacing a row's ``reference``, ``text`` (of picture and sound) and ``transcript`` by
            the null token or the empty text.
    """

    inputs: HarmonyInputs
    tasks: CrossTaskSynergy
    modalities: Sequence[Modality]
    needs_reference: bool
    dropout: Mapping[str, float]

    def draw(self, batch: ClipBatch, generator: torch.Generator) -> tuple[TaskRows, dict[str, Any]]:
        """Rows of all tasks and the transformer's arguments for them.

        Args:
            batch: B clips.
            generator: decides everything random, on the clips' device.

        Raises:
            InputError: if the clips do not fit the experiment.
        """
        with torch.no_grad():
            video = self.inputs.video(batch) if "video" in self.modalities else None
            sound = self.inputs.audio(batch)
            if self.needs_reference and batch.reference_audio is None:
                raise InputError(
                    "stage timbre learns voices from reference sounds, but the data module gives none: set its "
                    "reference_s, or train stage audio."
                )
            draws = self.tasks.draw(video, sound.latents, generator)
            uniform = torch.rand(3, len(batch), generator=generator, device=generator.device)
            dropped = {name: uniform[i] < p for i, (name, p) in enumerate(self.dropout.items())}
            reference, lengths = self.inputs.reference(batch, dropped["reference"])
            scenes = self.inputs.prompts(_emptied(scenes_of(batch), dropped["text"]))
            prompts = scenes
            if video is not None and batch.scenes is not None:
                prompts = self.inputs.prompts(_emptied(batch.captions, dropped["text"]))
            words = self.inputs.words(_emptied(transcripts_of(batch), dropped["transcript"]), batch.ids)
            rows = self.tasks.rows(video, sound.latents, draws, sound.lengths)

        def repeated(features: TextFeatures | None) -> TextFeatures | None:
            return features if features is None or rows.repeats == 1 else stack_text(*[features] * rows.repeats)

        arguments: dict[str, Any] = {
            "z_v": None,
            "z_a": None,
            "z_r": None if reference is None else reference.repeat(rows.repeats, 1, 1),
            "ref_len": lengths.repeat(rows.repeats),
            "transcript": repeated(words),
        }
        if rows.video is not None:
            arguments |= {"z_v": rows.video.latents, "t_v": rows.video.timesteps, "text_v": repeated(prompts)}
            arguments["first_frame"] = rows.first_frame
        if rows.audio is not None:
            arguments |= {"z_a": rows.audio.latents, "t_a": rows.audio.timesteps, "text_a": repeated(scenes)}
        return rows, arguments


def _emptied(texts: Sequence[str], dropped: Tensor) -> list[str]:
    return ["" if drop else text for drop, text in zip(dropped.tolist(), texts, strict=True)]
