"""CLIP score: do the pictures show what the caption says?

Radford et al., 2021 (arXiv 2103.00020); as in JavisBench: ViT-B/32, cosine, mean over 48 frames. Not comparable with
IT, which is ImageBind's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from components.codecs.no_autocast import no_autocast
from components.contracts import Generation
from components.encoders.transformers_model import load_audio_model
from components.errors import InputError
from components.metrics.imagebind.pictures import centre_square, clip_normalised
from components.metrics.prompts import caption_of
from components.metrics.scorers import ClipScorer, ClipScores
from components.weights.digests import Sha256
from components.weights.identity import identity_of
from components.weights.named_files import names_files
from components.weights.pretrained import builds_shapes_only, resolve_folder

PUBLIC: dict[str, dict[str, Any]] = {"openai/clip-vit-base-patch32": {}}


@names_files(checkpoint=None)
class ClipScore(ClipScorer):
    """Mean cosine of frames with the caption; about 0.2 to 0.35 with the public model.

    Args:
        checkpoint: folder or hub repository of a CLIP (the public one is under the MIT licence).
        num_frames: frames evenly from the first to the last; all of a clip that has no more.
        frames_at_once: bounds the memory; no value depends on it.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if a number is below 1, or the checkpoint is absent, damaged or another model.
    """

    higher_is_better: ClassVar[dict[str, bool]] = {"clip_score": True}

    def __init__(
        self,
        checkpoint: str = "hf://openai/clip-vit-base-patch32",
        num_frames: int = 48,
        frames_at_once: int = 32,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        for name, value in (("num_frames", num_frames), ("frames_at_once", frames_at_once)):
            if value < 1:
                raise InputError(f"ClipScore.{name} is {value}; it must be at least 1")
        self.num_frames = num_frames
        self.frames_at_once = frames_at_once
        self.model, self.tokenizer = _load_with_tokenizer(checkpoint, sha256)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked for."""
        return super().train(False)

    def identity(self) -> dict[str, object]:
        """The weights and the number of frames."""
        weights = identity_of(self.model)
        return {"model": weights.name, "sha256": weights.sha256, "num_frames": self.num_frames}

    @torch.no_grad()
    def score(self, generation: Generation, rows: Sequence[int]) -> list[ClipScores]:
        """One by one, so that no clip's score depends on another's.

        Raises:
            InputError: if a clip has no caption.
        """
        captions = [caption_of(generation.reference, row, "clip_score") for row in rows]
        with no_autocast(next(self.parameters()).device):
            return [self._score(generation, row, caption) for row, caption in zip(rows, captions, strict=True)]

    def _score(self, generation: Generation, row: int, caption: str) -> ClipScores:
        video = generation.video[row]
        # whole frames, evenly, ends on ends
        index = torch.linspace(0, len(video) - 1, min(self.num_frames, len(video))).long().to(video.device)
        text = self._text_vector(caption)
        size, cosines = self.model.config.vision_config.image_size, []
        for part in video[index].split(self.frames_at_once):
            pictures = clip_normalised(centre_square(part.float(), size)).to(text.device)
            vectors = self.model.get_image_features(pictures).pooler_output
            cosines.append(F.cosine_similarity(vectors, text[None], dim=-1))
        return ClipScores({"clip_score": float(torch.cat(cosines).mean())})

    def _text_vector(self, caption: str) -> Tensor:
        """The text tower's vector ``[D]``; what is too long for it is cut off."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(caption, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(next(self.parameters()).device)
        vector: Tensor = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        return vector[0]


def _load_with_tokenizer(checkpoint: str, sha256: Sha256) -> tuple[Any, Any]:
    """The frozen model in float32 and its tokenizer; no tokenizer where only shapes are built.

    Raises:
        InputError: if a file is absent or damaged, or the folder holds another model.
    """
    model = load_audio_model("CLIPModel", checkpoint, "float32", PUBLIC, sha256=sha256)
    if builds_shapes_only():
        return model, None
    from transformers import AutoTokenizer

    folder = resolve_folder(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain exceptions for damaged files
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the tokenizer in '{folder}' cannot be loaded ({reason}); download the whole folder"
        ) from None
    rows = model.config.text_config.vocab_size
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer in '{folder}' knows {len(tokenizer)} tokens, but its model {rows}; "
            "take both from one release"
        )
    return model, tokenizer
