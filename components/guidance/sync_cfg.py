"""SyncCFG: guidance away from a muted and from a motionless partner, beside guidance on the text.

Source: Harmony, "SyncCFG". With J the joint prediction, V0 the prediction of the video beside clean silence and A0 that
of the sound beside a clean video in which nothing moves:

    v_v = V0_v + s_v (J_v - V0_v),     v_a = A0_a + s_a (J_a - A0_a)

Written as ``J + (s - 1) (J - V0)`` this is Syncphony's audio sync guidance of scale ``s - 1`` with the anchor in place
of the off-sync branch, so both share `guided_velocity`, and text guidance adds to it as it does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from components.errors import InputError
from components.guidance.guidance import AudioSyncGuidance, Branches, TextGuidance, guided_velocity

Guidance = Literal["none", "text", "sync", "text+sync"]
Branch = Literal["joint", "negative", "silent", "still"]
AnchorText = Literal["positive", "negative"]
Range = tuple[float, float]


@dataclass(frozen=True)
class ModalityGuidance:
    """What corrects one modality's velocity in one step.

    Attributes:
        text: guidance on the prompts.
        sync: guidance away from the anchor.
        anchor: the branch whose partner is muted (``silent``) or motionless (``still``).
    """

    text: TextGuidance
    sync: AudioSyncGuidance
    anchor: Branch

    def branches(self) -> set[Branch]:
        """The branches that have to be computed beside the joint one."""
        needed: set[Branch] = set()
        if self.text.enabled:
            needed.add("negative")
        if self.sync.enabled:
            needed.add(self.anchor)
        return needed

    def combine(self, velocities: Mapping[Branch, Tensor]) -> Tensor:
        """The guided velocity from those of the branches; the joint one itself where nothing guides."""
        branches = Branches(velocities["joint"], velocities.get("negative"), velocities.get(self.anchor))
        return guided_velocity(branches, self.text, self.sync)


@dataclass(frozen=True)
class SyncCFG:
    """Guidance of a joint audio-video sampler.

    Harmony samples with ``guidance: sync``, s_v = 3 and s_a = 2, in three rows (joint, muted, still), and names no
    scale for the text; the defaults, which also guide by text in a fourth row, are ours.

    Attributes:
        guidance: which corrections are made: ``none``, ``text``, ``sync`` or ``text+sync``. A joint step takes 1, 2, 3
            or 4 rows per clip; a correction whose scale is 1 takes none.
        video_text_scale: text guidance of the video; 1 is off.
        audio_text_scale: text guidance of the sound; 1 is off.
        video_sync_scale: s_v, away from silence; 1 is off.
        audio_sync_scale: s_a, away from stillness; 1 is off.
        anchor_text: prompts of the anchors. With the ``negative`` ones ``sync`` alone also guides by text, in three
            rows.
        sync_sigmas: noise levels ``[lowest, highest]`` between which sync guidance is on.
        text_sigmas: the same for text guidance.

    Raises:
        InputError: for an unknown choice or a range that is none.
    """

    guidance: Guidance = "text+sync"
    video_text_scale: float = 4.0
    audio_text_scale: float = 3.0
    video_sync_scale: float = 2.0
    audio_sync_scale: float = 2.0
    anchor_text: AnchorText = "positive"
    sync_sigmas: Range = (0.0, 1.0)
    text_sigmas: Range = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("guidance", self.guidance, ("none", "text", "sync", "text+sync")),
            ("anchor_text", self.anchor_text, ("positive", "negative")),
        ):
            if value not in choices:
                raise InputError(f"SyncCFG.{name} is '{value}': give {', '.join(choices[:-1])} or {choices[-1]}.")
        for name, (low, high) in (("sync_sigmas", self.sync_sigmas), ("text_sigmas", self.text_sigmas)):
            if not 0 <= low <= high <= 1:
                raise InputError(f"SyncCFG.{name} is [{low}, {high}]: give two noise levels from 0 to 1, low first.")

    @property
    def guides_text(self) -> bool:
        """Whether negative prompts are read at all, be it for the anchors."""
        text = self.guidance in ("text", "text+sync") and (self.video_text_scale, self.audio_text_scale) != (1.0, 1.0)
        return text or (self.guides_sync and self.anchor_text == "negative")

    @property
    def guides_sync(self) -> bool:
        """Whether anchors are read at all."""
        # scale 1 leaves J as it is: s_v (J - V0) + V0 = J
        return "sync" in self.guidance and (self.video_sync_scale, self.audio_sync_scale) != (1.0, 1.0)

    def video(self, sigma: float, has_anchor: bool) -> ModalityGuidance:
        """Guidance of the video at noise level ``sigma``; without an anchor there is no sync guidance."""
        return self._modality(sigma, self.video_text_scale, self.video_sync_scale if has_anchor else 1.0, "silent")

    def audio(self, sigma: float, has_anchor: bool) -> ModalityGuidance:
        """Guidance of the sound at noise level ``sigma``; without an anchor there is no sync guidance."""
        return self._modality(sigma, self.audio_text_scale, self.audio_sync_scale if has_anchor else 1.0, "still")

    def _modality(self, sigma: float, text_scale: float, sync_scale: float, anchor: Branch) -> ModalityGuidance:
        text = "text" in self.guidance and _within(sigma, self.text_sigmas)
        sync = "sync" in self.guidance and _within(sigma, self.sync_sigmas)
        # s (J - V0) + V0 = J + (s - 1) (J - V0): scale s of SyncCFG is s - 1 of audio sync guidance
        return ModalityGuidance(
            TextGuidance(text_scale if text else 1.0), AudioSyncGuidance(sync_scale - 1 if sync else 0.0), anchor
        )


def _within(sigma: float, bounds: Range) -> bool:
    return bounds[0] <= sigma <= bounds[1]
