"""Transcript features kept in memory and on disk, so that a run whose transcripts are known loads no encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from components.contracts import TextFeatures, TranscriptEncoder
from components.encoders.text.cached import CachedText
from components.encoders.text.source import TextEncoderSource
from components.encoders.transcript.limit import OnTooLong, within_bytes, within_characters
from components.encoders.transcript.pretrained import (
    BYT5,
    SPEECHT5,
    ByT5Transcript,
    FrozenTranscript,
    Precision,
    SpeechT5Transcript,
)
from components.errors import InputError
from components.weights.file import open_weights
from components.weights.named_files import of_no_consequence
from components.weights.pretrained import (
    CONFIG_FILE,
    Sha256,
    builds_shapes_only,
    read_config,
    repository_of,
    resolve_folder,
)

_WIDTHS = {"byt5": "d_model", "speecht5": "hidden_size"}
_PUBLIC: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"byt5": BYT5, "speecht5": SPEECHT5}
_SPEECHT5_WIDTH = 768
_SPEECHT5_CHARACTERS = "spm_char.model"


class TranscriptFolder(TextEncoderSource):
    """A frozen transcript encoder, known from its ``config.json`` until it is loaded.

    Args:
        folder: folder or hub repository of the release.
        kind: ``byt5`` or ``speecht5``.
        limit: bytes (ByT5) or characters (SpeechT5) read of a transcript.
        on_too_long: ``error`` refuses a longer transcript, ``truncate`` drops its end.
        dtype: precision of weights and features.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the folder is missing or holds another model.
    """

    def __init__(
        self,
        folder: str = "hf://google/byt5-small",
        kind: Literal["byt5", "speecht5"] = "byt5",
        limit: int = 384,
        on_too_long: OnTooLong = "error",
        dtype: Precision = "bfloat16",
        sha256: Sha256 = None,
    ) -> None:
        self.name = folder
        self.kind = kind
        self.limit = limit
        self.on_too_long: OnTooLong = on_too_long
        self.dtype: Precision = dtype
        self.sha256 = sha256
        self.dim, self.pooled_dim = self._width(), 0

    def readable(self, texts: Sequence[str], ids: Sequence[str] | None) -> list[str]:
        """The texts as far as they are read.

        Raises:
            InputError: if one is too long and is not to be truncated, naming its clip.
        """
        within = within_bytes if self.kind == "byt5" else within_characters
        # before the cache: what is not read must not make another entry
        return within([text.strip() for text in texts], ids, self.limit, self.on_too_long)

    def files(self) -> list[Path]:
        """Config, weights, and SpeechT5's characters."""
        path = resolve_folder(self.name)
        characters = [path / _SPEECHT5_CHARACTERS] if self.kind == "speecht5" else []
        return [path / CONFIG_FILE, *open_weights(path).files, *characters]

    def settings(self) -> dict[str, str | int]:
        """Kind and precision; transcripts are within the limit before they get here."""
        return {"kind": self.kind, "dtype": self.dtype}

    def load(self) -> FrozenTranscript:
        """Read the weights.

        Raises:
            InputError: if a file is missing or damaged.
        """
        if self.kind == "byt5":
            return ByT5Transcript(self.name, self.limit, self.on_too_long, self.dtype, self.sha256)
        return SpeechT5Transcript(self.name, self.limit, self.on_too_long, self.dtype, self.sha256)

    def _width(self) -> int:
        repository = repository_of(self.name)
        if builds_shapes_only() and repository is not None and repository in _PUBLIC[self.kind]:
            return int(_PUBLIC[self.kind][repository].get(_WIDTHS[self.kind], _SPEECHT5_WIDTH))
        path = resolve_folder(self.name, files=CONFIG_FILE if builds_shapes_only() else "*", sha256=self.sha256)
        config = read_config(path)
        width = config.get(_WIDTHS[self.kind])
        if not isinstance(width, int):
            raise InputError(
                f"'{path / CONFIG_FILE}' describes a {config.get('model_type')!r}, which has no {_WIDTHS[self.kind]}; "
                f"give the folder of a {self.kind}"
            )
        return width


@of_no_consequence("folder", "device", "unload", "batch_size", "num_in_memory")
class CachedTranscript(TranscriptEncoder):
    """Encodes each transcript once, ever (see `CachedText`).

    Args:
        source: the encoder to load for transcripts not seen before.
        folder: where features are kept; null keeps them in memory alone.
        device: where the encoder runs, such as ``cpu``; null for the device of the features.
        unload: free the encoder's memory after each use.
        batch_size: transcripts encoded at once.
        num_in_memory: transcripts whose features are kept in memory.
    """

    def __init__(
        self,
        source: TranscriptFolder,
        folder: str | None = None,
        device: str | None = None,
        unload: bool = False,
        batch_size: int = 16,
        num_in_memory: int = 1024,
    ) -> None:
        super().__init__()
        self.source = source
        self.dim = source.dim
        # the cache is a submodule, the encoder inside it is not
        self.cached = CachedText(source, folder, device, unload, batch_size, num_in_memory)

    def forward(self, prompts: Sequence[str], ids: Sequence[str] | None = None) -> TextFeatures:
        """B transcripts to tokens ``[B, M, dim]``, M the longest.

        Raises:
            InputError: if a transcript is too long and is not to be truncated, naming its clip.
        """
        features: TextFeatures = self.cached(self.source.readable(prompts, ids))
        return features
