"""Frozen transcript encoders of transformers: ByT5 reads bytes of any language, SpeechT5 English characters.

Xue et al., "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models" (2022); Ao et al., "SpeechT5:
Unified-Modal Encoder-Decoder Pre-Training for Spoken Language Processing" (2022).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from components.contracts import TextFeatures, TranscriptEncoder
from components.encoders.transcript.limit import OnTooLong, within_bytes, within_characters
from components.encoders.transformers_model import load_audio_model
from components.errors import InputError
from components.weights.identity import inherit_identity
from components.weights.pretrained import Sha256, builds_shapes_only, resolve_folder

Precision = Literal["float32", "bfloat16", "float16"]

BYT5: Mapping[str, Mapping[str, Any]] = {
    "google/byt5-small": {
        "d_model": 1472,
        "d_kv": 64,
        "d_ff": 3584,
        "num_layers": 12,
        "num_heads": 6,
        "vocab_size": 384,
        "feed_forward_proj": "gated-gelu",
    },
    "google/byt5-base": {
        "d_model": 1536,
        "d_kv": 64,
        "d_ff": 3968,
        "num_layers": 18,
        "num_heads": 12,
        "vocab_size": 384,
        "feed_forward_proj": "gated-gelu",
    },
}
SPEECHT5: Mapping[str, Mapping[str, Any]] = {"microsoft/speecht5_tts": {}}
"""What differs from the defaults of transformers in the public releases."""


class FrozenTranscript(TranscriptEncoder):
    """A frozen encoder of transformers over the ids of a text; transcripts that are alike are encoded once per call.

    Always in evaluation mode, without gradients and untouched by autocast; padding is masked and its features are zero.
    """

    def __init__(self, model: Any, dim: int) -> None:
        super().__init__()
        self.model = model
        self.dim = dim
        inherit_identity(self, model)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTranscript:
        """Stays in evaluation mode whatever is asked for: a trainer must not switch dropout on."""
        super().train(False)
        return self

    def forward(self, prompts: Sequence[str], ids: Sequence[str] | None = None) -> TextFeatures:
        """B transcripts to tokens ``[B, M, dim]`` in the weights' precision, M the longest with its end token.

        Raises:
            InputError: if a transcript is too long and is not to be truncated.
        """
        texts = self.readable([prompt.strip() for prompt in prompts], ids)
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        tokens, mask = self._encode([torch.tensor(self.ids_of(text)) for text in rows])
        row_of = torch.tensor([rows[text] for text in texts], device=mask.device)
        return TextFeatures(tokens[row_of], mask[row_of])

    @abstractmethod
    def readable(self, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """The texts as far as they are read.

        Raises:
            InputError: if one is too long and is not to be truncated.
        """

    @abstractmethod
    def ids_of(self, text: str) -> list[int]:
        """Token ids with the end token."""

    @torch.no_grad()
    def _encode(self, ids: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Ids of R texts to features ``[R, M, dim]`` and mask ``[R, M]``."""
        device = next(self.parameters()).device
        if device.type == "meta":
            raise InputError(
                "the transcript encoder was built on the meta device, for its shapes alone: build it elsewhere"
            )
        padded = pad_sequence(ids, batch_first=True, padding_value=self.model.config.pad_token_id).to(device)
        lengths = torch.tensor([len(row) for row in ids], device=device)
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]
        with torch.autocast(device.type, enabled=False):
            states: Tensor = self.model(padded, attention_mask=mask.long()).last_hidden_state
        return states * mask[..., None], mask


class ByT5Transcript(FrozenTranscript):
    """ByT5's encoder over UTF-8 bytes: multilingual, without a phonemizer.

    Args:
        folder: folder or hub repository of a ByT5 release.
        max_bytes: bytes read of a transcript.
        on_too_long: ``error`` refuses a longer transcript, ``truncate`` drops its end.
        dtype: precision of weights and features.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the folder's files are missing or damaged.
    """

    def __init__(
        self,
        folder: str = "hf://google/byt5-small",
        max_bytes: int = 384,
        on_too_long: OnTooLong = "error",
        dtype: Precision = "bfloat16",
        sha256: Sha256 = None,
    ) -> None:
        from transformers import ByT5Tokenizer

        model = load_audio_model("T5EncoderModel", folder, dtype, BYT5, sha256=sha256)
        super().__init__(model, model.config.d_model)
        self.tokenizer: Any = ByT5Tokenizer()  # bytes need no vocabulary file
        self.max_bytes = max_bytes
        self.on_too_long: OnTooLong = on_too_long

    def readable(self, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """The texts within ``max_bytes``; a character is never cut in two."""
        return within_bytes(texts, ids, self.max_bytes, self.on_too_long)

    def ids_of(self, text: str) -> list[int]:
        """Every byte plus 3, and the end token."""
        ids: list[int] = self.tokenizer(text).input_ids
        return ids


class SpeechT5Transcript(FrozenTranscript):
    """The text encoder of SpeechT5, trained for speech synthesis: English characters.

    Args:
        folder: folder or hub repository of ``speecht5_tts``.
        max_characters: characters read of a transcript; the model has 450 positions or more.
        on_too_long: ``error`` refuses a longer transcript, ``truncate`` drops its end.
        dtype: precision of weights and features.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the folder's files are missing or damaged, or it has not that many positions.
    """

    def __init__(
        self,
        folder: str = "hf://microsoft/speecht5_tts",
        max_characters: int = 384,
        on_too_long: OnTooLong = "error",
        dtype: Precision = "float32",
        sha256: Sha256 = None,
    ) -> None:
        model = load_audio_model(
            "speecht5.modeling_speecht5:SpeechT5EncoderWithTextPrenet",
            folder,
            dtype,
            SPEECHT5,
            inside=r"^speecht5\.encoder\.",
            sha256=sha256,
        )
        super().__init__(model, model.config.hidden_size)
        self.tokenizer = _speecht5_tokenizer(folder)
        positions = model.config.max_text_positions
        # SpeechT5 puts a start and an end around the characters
        if max_characters + 2 > positions:
            raise InputError(
                f"max_characters is {max_characters}, but '{folder}' reads at most {positions - 2}; lower it"
            )
        self.max_characters = max_characters
        self.on_too_long: OnTooLong = on_too_long

    def readable(self, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """The texts within ``max_characters``."""
        return within_characters(texts, ids, self.max_characters, self.on_too_long)

    def ids_of(self, text: str) -> list[int]:
        """The characters' ids and the end token."""
        ids: list[int] = self.tokenizer(text).input_ids
        return ids


def _speecht5_tokenizer(folder: str) -> Any:
    """The character tokenizer in the folder; None where only shapes are built."""
    from transformers import SpeechT5Tokenizer

    if builds_shapes_only():
        return None
    path = resolve_folder(folder)
    if not (path / "spm_char.model").is_file():
        raise InputError(f"'{path}' lacks spm_char.model, SpeechT5's characters: download the whole folder")
    try:
        return SpeechT5Tokenizer.from_pretrained(path, local_files_only=True)
    except ImportError:
        raise InputError(
            f"reading '{path / 'spm_char.model'}' needs the package sentencepiece: pip install sentencepiece"
        ) from None
    except Exception as error:  # sentencepiece raises plain exceptions for damaged files
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the tokenizer in '{path}' cannot be loaded ({reason}): download it anew") from None
