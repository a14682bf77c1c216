"""KL: how far what is heard in a generated sound is from what is heard in the real one, by a tagger's classes.

As the benchmarks of video-to-audio models compute it (KL-PANNs, KL-PaSST with softmax): of the real sound's
distribution relative to the generated one's, in nats.
"""

from __future__ import annotations

from typing import ClassVar

from components.contracts import Generation
from components.metrics.distributions.classes import class_divergence
from components.metrics.scorers import ClipScores
from components.metrics.sound.clip_sound import generated_sound, is_mute, real_sound
from components.metrics.sound.frozen import SoundScorer
from components.metrics.sound.tagger import AudioTagger


class ClassDivergence(SoundScorer):
    """``kl``: 0 where a generated sound is named as the real one is, and the more the less it is.

    Clips without sound track have no real sound to be compared with: ``mute``.

    Args:
        tagger: `components.metrics.sound.panns.Panns` or `components.metrics.sound.passt.Passt`.
    """

    higher_is_better: ClassVar = {"kl": False}
    needs_reference: ClassVar = True

    def __init__(self, tagger: AudioTagger) -> None:
        super().__init__()
        self.tagger = tagger
        self.eval().requires_grad_(False)

    def score_clip(self, generation: Generation, row: int) -> ClipScores:
        """``kl`` of clip ``row``."""
        if is_mute(generation, row):
            return ClipScores(problem="mute")
        rate = self.tagger.sample_rate
        _, real = self.tagger(real_sound(generation, row, rate))
        _, generated = self.tagger(generated_sound(generation, row, rate))
        return ClipScores({"kl": float(class_divergence(real[None], generated[None]))})

    def identity(self) -> dict[str, object]:
        """The tagger."""
        return self.tagger.identity()
