"""Scene text as Wan reads it: UMT5's states, with zeros behind the prompt up to 512 tokens.

Wan et al., "Wan: Open and Advanced Large-Scale Video Generative Models" (2025), section 4.2. The transformer attends to
the zeros too, so their number is part of the model.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from components.contracts import TextEncoder, TextFeatures
from components.encoders.text.pyramid_flow import T5Text, Tokenizer
from components.encoders.text.rows import TextRow, split_rows, stack_rows
from components.encoders.text.source import TextEncoderSource
from components.encoders.transformers_model import load_audio_model
from components.errors import InputError
from components.weights.file import open_weights
from components.weights.identity import record_identity
from components.weights.pretrained import (
    CONFIG_FILE,
    Sha256,
    builds_shapes_only,
    check_release,
    find_folder,
    full_name,
    read_config,
    resolve_folder,
)

NUM_TOKENS = 512
"""Token positions that Wan 2.1 and 2.2 were trained with."""

WAN22 = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"

UMT5_XXL: Mapping[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 256384,
    "feed_forward_proj": "gated-gelu",
}
"""What differs from the defaults of transformers, so that shapes are known where no file is."""

_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")


class UMT5Text(TextEncoder):
    """UMT5's last hidden states; no pooled vector.

    Prompts of a batch that are alike are encoded once. Nothing is computed for padding: UMT5 is given its mask and
    knows relative positions only, and what stands behind a prompt is set to zero. Always in evaluation mode, without
    gradients and untouched by autocast. `WanTextFolder` loads one.

    Args:
        t5: tokenizer and model.
        pad_to: number of token positions to return.
    """

    def __init__(self, t5: T5Text, pad_to: int = NUM_TOKENS) -> None:
        super().__init__()
        self.t5 = t5
        self.dim, self.pooled_dim = t5.dim, 0
        self.pad_to = pad_to
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> UMT5Text:
        """Stays in evaluation mode whatever is asked for: a trainer must not switch dropout on."""
        super().train(False)
        return self

    def forward(self, prompts: Sequence[str]) -> TextFeatures:
        """B prompts to tokens ``[B, pad_to, dim]``, zero behind each prompt; the mask says which are the prompt's."""
        cleaned = [clean(prompt) for prompt in prompts]
        new = list(dict.fromkeys(cleaned))
        rows = dict(zip(new, self._encode(new), strict=True))
        return stack_rows([rows[prompt] for prompt in cleaned], self.pad_to)

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> list[TextRow]:
        weights = next(self.t5.parameters())
        if weights.is_meta:
            raise InputError("the text encoder was built on the meta device, for its shapes alone: build it elsewhere")
        with torch.autocast(weights.device.type, enabled=False):
            return split_rows(TextFeatures(*self.t5(prompts)))


class WanTextFolder(TextEncoderSource):
    """The text encoder of a Wan release, known from its ``config.json`` until it is loaded (see `CachedText`).

    Features are stored without the zeros: give `CachedText` ``pad_to: 512``.

    Args:
        folder: release folder in diffusers layout, or hub repository.
        encoder: where UMT5 lies in it.
        tokenizer: where its tokenizer lies in it.
        dtype: precision of weights and features.
        max_length: tokens read of a prompt.
        sha256: digests of files in ``folder``, such as ``text_encoder/model.safetensors`` (see
            `components.weights.digests`).

    Raises:
        InputError: if a folder is missing or holds another encoder.
    """

    def __init__(
        self,
        folder: str = f"hf://{WAN22}",
        encoder: str = "text_encoder",
        tokenizer: str = "tokenizer",
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        max_length: int = NUM_TOKENS,
        sha256: Sha256 = None,
    ) -> None:
        self.name = full_name(folder, encoder)
        self.folder, self.encoder, self.tokenizer = folder, encoder, tokenizer
        self.dtype = dtype
        self.max_length = max_length
        config: Mapping[str, Any] = UMT5_XXL
        if not self._is_unknown_here:
            path = resolve_folder(folder, encoder, CONFIG_FILE if builds_shapes_only() else "*")
            config = read_config(path)
            if config.get("model_type") != "umt5" or not isinstance(config.get("d_model"), int):
                raise InputError(
                    f"'{path / CONFIG_FILE}' describes a model of type {config.get('model_type')!r}, but Wan's text "
                    "encoder is a 'umt5' with a d_model; give the folder of a Wan release"
                )
            check_release(folder, [encoder, tokenizer], sha256)
        self.dim, self.pooled_dim = int(config["d_model"]), 0

    def files(self) -> list[Path]:
        """Config, weights and whatever tokenizer files there are."""
        path = resolve_folder(self.folder, self.encoder)
        tokenizer = resolve_folder(self.folder, self.tokenizer)
        spellings = [tokenizer / name for name in _TOKENIZER_FILES if (tokenizer / name).is_file()]
        return [path / CONFIG_FILE, *open_weights(path).files, *spellings]

    def settings(self) -> dict[str, str | int]:
        """Precision, longest prompt, and what repairs broken characters."""
        # ftfy changes prompts, so that features with and without it differ
        return {"dtype": self.dtype, "max_length": self.max_length, "ftfy": _ftfy_version()}

    def load(self) -> UMT5Text:
        """Read weights and tokenizer.

        Raises:
            InputError: if a file is missing or damaged, or tokenizer and encoder do not belong together.
        """
        where = f"hf://{WAN22}" if self._is_unknown_here else str(resolve_folder(self.folder, self.encoder))
        model = load_audio_model("UMT5EncoderModel", where, self.dtype, {WAN22: UMT5_XXL})
        if builds_shapes_only():
            return UMT5Text(T5Text(None, model, self.max_length))
        encoder = UMT5Text(T5Text(self._load_tokenizer(model.config.vocab_size), model, self.max_length))
        record_identity(encoder, self.name, self.files())
        return encoder

    @property
    def _is_unknown_here(self) -> bool:
        """Whether only the public shapes are wanted and no file is on this disk."""
        return builds_shapes_only() and find_folder(self.folder, self.encoder) is None

    def _load_tokenizer(self, num_rows: int) -> Tokenizer:
        from transformers import T5Tokenizer

        path = resolve_folder(self.folder, self.tokenizer)
        try:
            tokenizer = T5Tokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:  # the tokenizers library raises plain exceptions for damaged files
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the tokenizer in '{path}' cannot be loaded ({reason}): download it anew") from None
        if len(tokenizer) > num_rows:
            raise InputError(
                f"the tokenizer in '{path}' knows {len(tokenizer)} tokens, but its encoder {num_rows}: take both from "
                "the same release"
            )
        return tokenizer


def umt5_text(
    folder: str = f"hf://{WAN22}",
    encoder: str = "text_encoder",
    tokenizer: str = "tokenizer",
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    max_length: int = NUM_TOKENS,
    sha256: Sha256 = None,
) -> UMT5Text:
    """Load Wan's text encoder at once; `CachedText` loads it only when a prompt is new.

    Args:
        folder: release folder in diffusers layout, or hub repository.
        encoder: where UMT5 lies in it.
        tokenizer: where its tokenizer lies in it.
        dtype: precision of weights and features.
        max_length: tokens read of a prompt.
        sha256: digests of files in ``folder``, such as ``text_encoder/model.safetensors`` (see
            `components.weights.digests`).

    Raises:
        InputError: if a folder or file is missing, damaged or of another model.
    """
    return WanTextFolder(folder, encoder, tokenizer, dtype, max_length, sha256).load()


def clean(prompt: str) -> str:
    """A prompt as Wan's pipelines clean it: repaired characters (where ftfy is installed), entities, white space."""
    if _ftfy_version() != "absent":
        import ftfy

        prompt = ftfy.fix_text(prompt)
    # twice, as Wan's pipelines do
    return " ".join(html.unescape(html.unescape(prompt)).split())


def _ftfy_version() -> str:
    try:
        return version("ftfy")
    except PackageNotFoundError:
        return "absent"
