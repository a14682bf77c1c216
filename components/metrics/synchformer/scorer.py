"""DeSync of clips: by how many seconds Synchformer takes picture and sound to be apart.

Metrics specification, section 4.

Legend for shapes: T frames, S segments of 0.64 s, N windows of 14 segments, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScorer, ClipScores
from components.metrics.synchformer.desync import WindowRule, desync_s, window_segments
from components.metrics.synchformer.head import NUM_OFFSETS
from components.metrics.synchformer.input import (
    at_synchformer_rates,
    mel_segments,
    network_pictures,
    num_segments,
    picture_segments,
)
from components.metrics.synchformer.model import WINDOW_SEGMENTS, Synchformer
from components.weights.identity import identity_of


class DeSync(ClipScorer):
    """Distance between picture and sound in seconds, 0 to 2, lower is better; chance is 22 / 21 = 1.048 s.

    - ``desync``: mean over windows of the likeliest distance, as all public tools have it;
    - ``desync_expected``: of the expected distance, which changes smoothly and suits curves over a training;
    - ``desync_looped``: 1 for a clip shorter than one window (4.8 s) whose segments were repeated to fill it, else 0.
      Its mean is the share of clips whose value is not comparable with published ones.

    Clips of any frame and sample rate are brought to 25 fps and 16 kHz by time. A clip of less than 16 frames at 25 fps
    (0.64 s) is counted as ``too_short``, under the rule ``av_benchmark`` every clip below 4.8 s.

    Args:
        net: the network; its weights decide what the scores mean.
        rule: how windows are laid over a clip (see `components.metrics.synchformer.desync.window_segments`).
        segments_at_once: segments embedded together; bounds the memory (some 60 MB each at full size).

    Raises:
        InputError: if an argument is unknown or out of range.
    """

    higher_is_better: ClassVar = {"desync": False, "desync_expected": False, "desync_looped": False}

    def __init__(
        self, net: Synchformer, rule: WindowRule = "javisbench", segments_at_once: int = WINDOW_SEGMENTS
    ) -> None:
        super().__init__()
        if rule not in get_args(WindowRule):
            raise InputError(f"DeSync.rule is '{rule}'; use one of {', '.join(get_args(WindowRule))}")
        if segments_at_once < 1:
            raise InputError(f"DeSync.segments_at_once is {segments_at_once}; it must be at least 1")
        self.net = net.requires_grad_(False).eval()
        self.rule: WindowRule = rule
        self.segments_at_once = segments_at_once

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever the trainer asks for."""
        return super().train(False)

    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """Scores the clips of those ``rows``, one after the other."""
        clips = (
            self.segments(generation.video[row], generation.fps, generation.audio[row], generation.sample_rate)
            for row in rows
        )
        return [self.compare(picture, sound) for picture, sound in clips]

    def identity(self) -> dict[str, object]:
        """The network's name and digest, and the rule."""
        weights = identity_of(self.net)
        return {"synchformer": weights.name, "synchformer_sha256": weights.sha256, "desync_rule": self.rule}

    @torch.no_grad()
    def segments(self, video: Tensor, fps: float, audio: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
        """Embeds the segments that picture and sound of a clip both fill.

        Args:
            video: ``[T, 3, H, W]`` in [0, 1].
            fps: frames per second of ``video``.
            audio: ``[samples]`` in [-1, 1].
            sample_rate: samples per second of ``audio``.

        Returns:
            ``[S, 8, D]`` of the picture and ``[S, 6, D]`` of the sound; S is 0 for a clip that is too short.
        """
        device = next(self.net.parameters()).device
        with no_autocast(device):
            frames, sound = at_synchformer_rates(video.to(device).float(), fps, audio.to(device).float(), sample_rate)
            count = num_segments(len(frames), len(sound))
            if not count:
                empty = torch.zeros(0, 1, int(self.net.config["dim"]), device=device)
                return empty, empty
            pictures = picture_segments(network_pictures(frames), count)
            mels = mel_segments(sound, count)
            parts = pictures.split(self.segments_at_once)
            return (
                torch.cat([self.net.embed_video(part) for part in parts]),
                torch.cat([self.net.embed_sound(part) for part in mels.split(self.segments_at_once)]),
            )

    @torch.no_grad()
    def logits(self, picture: Tensor, sound: Tensor) -> Tensor:
        """Embedded segments ``[S, 8, D]`` and ``[S, 6, D]`` to logits ``[N, 21]`` of windows; N is 0 for none."""
        windows = window_segments(min(len(picture), len(sound)), self.rule)
        if not windows:
            return picture.new_zeros(0, NUM_OFFSETS)
        index = torch.tensor(windows, device=picture.device)
        with no_autocast(picture.device):
            return self.net.offset_logits(picture[index], sound[index])

    def compare(self, picture: Tensor, sound: Tensor) -> ClipScores:
        """Scores embedded segments ``[S, 8, D]`` against ``[S, 6, D]``, of the same clip or of another."""
        logits = self.logits(picture, sound)
        if not len(logits):
            return ClipScores(problem="too_short")
        return ClipScores(
            {
                "desync": desync_s(logits).mean().item(),
                "desync_expected": desync_s(logits, "expected").mean().item(),
                "desync_looped": float(min(len(picture), len(sound)) < WINDOW_SEGMENTS),
            }
        )
