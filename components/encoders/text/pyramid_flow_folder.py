"""The folders in which the public Pyramid Flow releases keep their text encoders and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from components.encoders.text.pyramid_flow import ClipText, PyramidFlowText, T5Text, Tokenizer
from components.encoders.text.source import TextEncoderSource
from components.errors import InputError
from components.weights.identity import record_identity
from components.weights.pretrained import (
    CONFIG_FILE,
    Sha256,
    builds_shapes_only,
    check_release,
    dtype_named,
    read_config,
    repository_of,
    resolve_folder,
)
from components.weights.public_checkpoints import MINIFLUX, SD3


@dataclass(frozen=True)
class Kind:
    """A sort of encoder: its classes in transformers, its ``model_type`` and the config entry that is its width."""

    model: str
    tokenizer: str
    model_type: str
    width: str


CLIP = Kind("CLIPTextModel", "CLIPTokenizer", "clip_text_model", "hidden_size")
CLIP_PROJECTED = Kind("CLIPTextModelWithProjection", "CLIPTokenizer", "clip_text_model", "projection_dim")
T5 = Kind("T5EncoderModel", "T5Tokenizer", "t5", "d_model")

VARIANTS: dict[str, tuple[Kind, ...]] = {"miniflux": (CLIP, T5), "sd3": (CLIP_PROJECTED, CLIP_PROJECTED, T5)}
"""Encoders of each release in the order of their folders; T5 comes last."""

CLIP_L: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_BIGG: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
T5_XXL: Mapping[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
PUBLIC = {MINIFLUX: (CLIP_L, T5_XXL), SD3: (CLIP_L, CLIP_BIGG, T5_XXL)}
"""What differs from the defaults of transformers, so that shapes are known where no file is."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class PyramidFlowTextFolder(TextEncoderSource):
    """The text encoders of a release, known from their ``config.json`` until they are loaded.

    On the meta device (``with torch.device("meta")``) only shapes are built, and the public names need no files.

    Args:
        folder: folder of the release, or hub repository (``hf://rain1011/pyramid-flow-miniflux``); relative paths
            are also looked for in the installed package.
        variant: ``miniflux`` (CLIP-L and T5) or ``sd3`` (projected CLIP-L and CLIP-bigG, and T5).
        encoders: names of the encoders' folders; by default ``text_encoder``, ``text_encoder_2`` ...
        tokenizers: names of the tokenizers' folders; by default ``tokenizer``, ``tokenizer_2`` ...
        dtype: precision of the weights and the features.
        max_length: T5 tokens read of a prompt.
        sha256: digests of files in ``folder``, such as ``text_encoder_2/model.safetensors`` (see
            `components.weights.digests`).

    Raises:
        InputError: if a folder is missing or holds another encoder than the variant has there.
    """

    def __init__(
        self,
        folder: str,
        variant: Literal["miniflux", "sd3"] = "miniflux",
        encoders: Sequence[str] | None = None,
        tokenizers: Sequence[str] | None = None,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        max_length: int = 128,
        sha256: Sha256 = None,
    ) -> None:
        self.name = folder
        self.variant = variant
        self.kinds = VARIANTS[variant]
        self.dtype = dtype_named(dtype) or torch.bfloat16
        self.max_length = max_length
        self.encoders = self._subfolders("encoders", encoders, "text_encoder")
        self.tokenizers = self._subfolders("tokenizers", tokenizers, "tokenizer")
        self.configs = self._configs()
        check_release(folder, [*self.encoders, *self.tokenizers], sha256)
        *clips, self.dim = (config[kind.width] for kind, config in zip(self.kinds, self.configs, strict=True))
        self.pooled_dim = sum(clips)

    def files(self) -> list[Path]:
        """Configs, weights and whatever tokenizer files there are."""
        found: list[Path] = []
        for encoder, tokenizer in zip(self.encoders, self.tokenizers, strict=True):
            path = resolve_folder(self.name, encoder)
            found += [path / CONFIG_FILE, *_weight_files(path)]
            path = resolve_folder(self.name, tokenizer)
            # tokenizers too: the same weights under another vocabulary give other features
            found += [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        return found

    def settings(self) -> dict[str, str | int]:
        """Variant, precision and longest prompt."""
        return {"variant": self.variant, "dtype": str(self.dtype), "max_length": self.max_length}

    def load(self) -> PyramidFlowText:
        """Read weights and tokenizers.

        Raises:
            InputError: if a file is missing or damaged, or tokenizer and encoder do not belong together.
        """
        if builds_shapes_only():
            models = [_shapes(kind, config, self.dtype) for kind, config in zip(self.kinds, self.configs, strict=True)]
            return self._assembled(models, [None] * len(models))
        folders = [resolve_folder(self.name, tokenizer) for tokenizer in self.tokenizers]
        tokenizers = [_load_tokenizer(*each) for each in zip(folders, self.kinds, self.configs, strict=True)]
        folders = [resolve_folder(self.name, encoder) for encoder in self.encoders]
        models = [_load_model(path, kind, self.dtype) for path, kind in zip(folders, self.kinds, strict=True)]
        encoder = self._assembled(models, tokenizers)
        record_identity(encoder, self.name, self.files())
        return encoder

    def _assembled(self, models: Sequence[nn.Module], tokenizers: Sequence[Tokenizer]) -> PyramidFlowText:
        *clips, t5 = zip(tokenizers, models, strict=True)
        return PyramidFlowText([ClipText(*clip) for clip in clips], T5Text(*t5, self.max_length))

    def _subfolders(self, key: str, given: Sequence[str] | None, stem: str) -> list[str]:
        number = len(self.kinds)
        names = [stem, *(f"{stem}_{i + 1}" for i in range(1, number))] if given is None else list(given)
        if len(names) != number:
            raise InputError(f"{key} names {len(names)} folders {names}: variant {self.variant} has {number}.")
        return names

    def _configs(self) -> list[dict[str, Any]]:
        """Settings of each encoder, after checking that it is the one the variant has there."""
        repository = repository_of(self.name)
        if builds_shapes_only() and repository in PUBLIC:
            known = PUBLIC[repository]
            if len(known) != len(self.kinds):
                raise InputError(f"'{self.name}' is not the {self.variant} release: set variant to {self._other()}.")
            return [dict(config) for config in known]
        configs = [self._config(name, kind) for name, kind in zip(self.encoders, self.kinds, strict=True)]
        if not builds_shapes_only():
            for name in self.tokenizers:
                resolve_folder(self.name, name)
        return configs

    def _config(self, subfolder: str, kind: Kind) -> dict[str, Any]:
        # from the hub only the config where shapes are wanted, else the folder at once
        path = resolve_folder(self.name, subfolder, CONFIG_FILE if builds_shapes_only() else "*")
        config = read_config(path)
        if config.get("model_type") != kind.model_type:
            raise InputError(
                f"'{path / CONFIG_FILE}' describes a model of type {config.get('model_type')!r}, but variant "
                f"{self.variant} has a {kind.model_type!r} there: set variant to {self._other()}."
            )
        if not isinstance(config.get(kind.width), int):
            raise InputError(f"'{path / CONFIG_FILE}' lacks {kind.width}, a width: restore it from the release.")
        return config

    def _other(self) -> str:
        return next(name for name in VARIANTS if name != self.variant)


def pyramid_flow_text(
    folder: str,
    variant: Literal["miniflux", "sd3"] = "miniflux",
    encoders: Sequence[str] | None = None,
    tokenizers: Sequence[str] | None = None,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    max_length: int = 128,
    pad_to: int = 0,
    sha256: Sha256 = None,
) -> PyramidFlowText:
    """Load the text encoders of a release at once; `CachedText` loads them only when a prompt is new.

    Args:
        folder: folder of the release, or hub repository.
        variant: ``miniflux`` (CLIP-L and T5) or ``sd3`` (projected CLIP-L and CLIP-bigG, and T5).
        encoders: names of the encoders' folders; by default ``text_encoder``, ``text_encoder_2`` ...
        tokenizers: names of the tokenizers' folders; by default ``tokenizer``, ``tokenizer_2`` ...
        dtype: precision of the weights and the features.
        max_length: T5 tokens read of a prompt.
        pad_to: shortest number of token positions to return; 0 for the longest prompt of a batch.
        sha256: digests of files in ``folder``, such as ``text_encoder_2/model.safetensors`` (see
            `components.weights.digests`).

    Raises:
        InputError: if a folder or file is missing, damaged or of another variant.
    """
    encoder = PyramidFlowTextFolder(folder, variant, encoders, tokenizers, dtype, max_length, sha256).load()
    encoder.pad_to = pad_to
    return encoder


def _weight_files(path: Path) -> list[Path]:
    """The weights in ``path``: one file, or an index and its shards."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [path / "model.safetensors"]
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"'{index}' cannot be read ({error}): restore it from the release.") from None
    return [index, *(path / shard for shard in sorted(shards))]


def _shapes(kind: Kind, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """The model without its weights, on the meta device."""
    import transformers

    model_class = getattr(transformers, kind.model)
    model: nn.Module = model_class(model_class.config_class(**config))
    return model.to(dtype)


def _load_model(path: Path, kind: Kind, dtype: torch.dtype) -> nn.Module:
    """The model with all its weights, read straight into ``dtype``."""
    import transformers

    missing = [file for file in _weight_files(path) if not file.is_file()]
    if missing:
        raise InputError(f"'{missing[0]}' is missing: restore it from the release.")
    try:
        model, report = getattr(transformers, kind.model).from_pretrained(
            path, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the weights in '{path}' cannot be loaded ({reason}): restore them from the release."
        ) from None
    # transformers leaves missing weights random and only warns
    absent = sorted(report["missing_keys"])
    if absent:
        raise InputError(f"the weights in '{path}' lack {len(absent)} tensors such as {absent[0]}: restore the files.")
    loaded: nn.Module = model
    return loaded


def _load_tokenizer(path: Path, kind: Kind, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer, after checking that the model has a row for each of its tokens."""
    import transformers

    if kind is T5 and not (path / "tokenizer.json").is_file():
        _require_spiece(path)
    elif kind is not T5 and not all((path / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise InputError(f"'{path}' lacks vocab.json or merges.txt: restore them from the release.")
    try:
        tokenizer = getattr(transformers, kind.tokenizer).from_pretrained(path, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain exceptions for damaged files
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the tokenizer in '{path}' cannot be loaded ({reason}): restore it from the release."
        ) from None
    rows = config.get("vocab_size", 0)
    if len(tokenizer) > rows or (kind is not T5 and len(tokenizer) < rows):  # T5 has spare rows
        raise InputError(
            f"the tokenizer in '{path}' knows {len(tokenizer)} tokens, but its encoder {rows}: "
            "take both from the same release."
        )
    return tokenizer


def _require_spiece(path: Path) -> None:
    """Without ``tokenizer.json``, T5's tokenizer is built from ``spiece.model``, which takes one more package."""
    from importlib.util import find_spec

    if not (path / "spiece.model").is_file():
        raise InputError(f"'{path}' lacks tokenizer.json and spiece.model: restore one of them from the release.")
    if find_spec("sentencepiece") is None:
        raise InputError(
            f"reading '{path / 'spiece.model'}' needs the package sentencepiece: pip install sentencepiece."
        )
