"""ID: whether the generated frames still show who, or what, the reference picture shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from components.contracts import Generation
from components.errors import InputError
from components.metrics.scorers import ClipScorer, ClipScores
from components.metrics.video.embedder import ImageEmbedder, Pooling, embedded
from components.metrics.video.front_end import FrontEnd
from components.metrics.video.judge import FrozenJudge, at_least_one, needs_torchvision
from components.weights.digests import Sha256
from components.weights.identity import identity_of, inherit_identity
from components.weights.named_files import names_files, of_no_consequence


@of_no_consequence("frames_at_once")
@names_files(checkpoint=None)
class ReferenceIdentity(FrozenJudge, ClipScorer):
    """Mean cosine of every generated frame's embedding with that of the first real frame, -1 to 1; higher is better.

    Verse-Bench's ID, which Harmony reports; metrics specification, section 10. The reference is the picture that the
    clip was, or could have been, conditioned on: ``reference.video[:, 0]``. A model that shows it in every frame scores
    1, so read it beside the dynamic degree. A clip without picture (a prompt whose list names no ``reference_image``)
    counts as ``no_reference``.

    Args:
        checkpoint: folder or hub repository of a DINOv3 or DINOv2 vision transformer. DINOv3's repositories are gated:
            access is asked for on their page. Scores of different models do not compare.
        pooling: ``cls``, or ``verse_bench`` for the token that Verse-Bench's script takes (see `ImageEmbedder`).
        frames_at_once: frames embedded together; bounds the memory.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if an argument is out of range, or the checkpoint is absent, damaged or another model.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"reference_identity": True}

    def __init__(
        self,
        checkpoint: str = "hf://facebook/dinov3-vitl16-pretrain-lvd1689m",
        pooling: Pooling = "cls",
        frames_at_once: int = 16,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        needs_torchvision("ReferenceIdentity")
        at_least_one(self, frames_at_once=frames_at_once)
        self.frames_at_once = frames_at_once
        self.net = ImageEmbedder(checkpoint, pooling, sha256)
        self.front_end = FrontEnd(checkpoint)
        inherit_identity(self, self.net)
        self.eval()

    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """See `ClipScorer.score`.

        Raises:
            InputError: if the real pictures are not there, as of prepared clips.
        """
        with self.judging():
            return [self._judge(generation, row) for row in rows]

    def _judge(self, generation: Generation, row: int) -> ClipScores:
        real = generation.reference.video
        if real.ndim != 5 or not real.shape[1]:
            if generation.reference.prepared is None:
                return ClipScores(problem="no_reference")
            raise InputError(
                f"clip '{generation.reference.ids[row]}' comes without its pictures, as prepared clips do, but "
                "reference_identity compares with the first; evaluate on recordings"
            )
        reference = real[row, :1].to(self.device).float() / 255
        wanted = embedded(self.net, self.front_end(reference), 1)
        found = embedded(self.net, self.front_end(self.frames_of(generation, row)), self.frames_at_once)
        return ClipScores({"reference_identity": (found @ wanted[0]).mean().item()})

    def identity(self) -> dict[str, object]:
        """Model and pooling."""
        return {"pooling": self.net.pooling, "sha256": identity_of(self).sha256}
