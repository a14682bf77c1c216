"""What a batch of training clips looks like, as far as the cost of a step depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts import ClipBatch, TextFeatures


@dataclass(frozen=True)
class StepShape:
    """Shapes of one batch.

    Attributes:
        clips: B.
        num_frames: T; 0 or 1 for sounds alone.
        fps: frames per second.
        height: rows of a frame.
        width: columns of a frame.
        num_samples: S.
        sample_rate: samples per second.
        reference_samples: samples of the slot for reference voices; None without.
        text_tokens: of a prompt.
        transcript_tokens: of the spoken words.
    """

    clips: int
    num_frames: int
    fps: float
    height: int
    width: int
    num_samples: int
    sample_rate: int
    reference_samples: int | None = None
    text_tokens: int = 1
    transcript_tokens: int = 1

    @property
    def duration_s(self) -> float:
        """Length of the clips; of the sound where there is no moving picture."""
        if self.num_frames > 1:
            return self.num_frames / self.fps
        return self.num_samples / self.sample_rate

    @classmethod
    def of(
        cls, batch: ClipBatch, side: int, hop: int, text: TextFeatures | None, transcript: TextFeatures | None
    ) -> StepShape:
        """That of a batch, encoded beforehand or not.

        Args:
            batch: the clips.
            side: pixels per latent pixel.
            hop: samples per latent of the sound.
            text: encoded prompts.
            transcript: encoded words.
        """
        latents, prepared = batch.video_latents, batch.prepared
        if latents is None:
            height, width = batch.video.shape[-2:]
        else:
            height, width = (int(length) * side for length in latents.shape[-2:])
        reference = None if batch.reference_audio is None else batch.reference_audio.shape[1]
        if prepared is not None and prepared.reference_latents is not None:
            reference = prepared.reference_latents.shape[-1] * hop
        return cls(
            clips=len(batch),
            num_frames=batch.num_frames,
            fps=batch.fps,
            height=int(height),
            width=int(width),
            num_samples=batch.num_samples,
            sample_rate=batch.sample_rate,
            reference_samples=reference,
            text_tokens=_longest(text),
            transcript_tokens=_longest(transcript),
        )


def _longest(features: TextFeatures | None) -> int:
    """Tokens of the longest text, without padding."""
    return 1 if features is None else max([1, *(count for _, count in features.spans)])
