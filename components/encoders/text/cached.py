"""Text features kept in memory and on disk, so that a run whose prompts are known loads no text encoder at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.contracts import TextEncoder, TextFeatures
from components.encoders.text.rows import TextRow, split_rows, stack_rows
from components.encoders.text.source import TextEncoderSource
from components.errors import InputError
from components.weights.identity import identity_of, record_identity, sha256_of_tensors
from components.weights.named_files import of_no_consequence
from components.weights.pretrained import builds_shapes_only


@of_no_consequence("folder", "device", "unload", "batch_size", "num_in_memory")
class CachedText(TextEncoder):
    """Encodes each prompt once, ever.

    A file per prompt holds its features without padding, under a name made of the prompt and the encoder's identity
    (weights, tokenizers, precision). Files are written under another name and renamed, so that several processes may
    share the folder; a damaged file is told by its checksum and written anew.

    The encoder is no submodule: it is in no checkpoint, no optimizer and no parameter count, and stays where it runs.

    Args:
        source: the encoder to load for prompts not seen before.
        folder: where features are kept; null keeps them in memory alone.
        device: where the encoder runs, such as ``cpu``; null for the device of the features.
        unload: free the encoder's memory after each use; for runs with few prompts.
        batch_size: prompts encoded at once.
        num_in_memory: prompts whose features are kept in memory, on the device of the features.
        pad_to: shortest number of token positions to return; 0 for the longest prompt of a batch.
    """

    anchor: Tensor

    def __init__(
        self,
        source: TextEncoderSource,
        folder: str | None = None,
        device: str | None = None,
        unload: bool = False,
        batch_size: int = 16,
        num_in_memory: int = 1024,
        pad_to: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.dim, self.pooled_dim = source.dim, source.pooled_dim
        self.folder = None if folder is None else Path(folder).expanduser()
        self.device = device
        self.unload = unload
        self.batch_size = batch_size
        self.num_in_memory = num_in_memory
        self.pad_to = pad_to
        self._rows: OrderedDict[str, TextRow] = OrderedDict()  # least recently used first
        self._loaded: list[TextEncoder] = []  # a list hides the encoder from parameters(), to() and checkpoints
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device of the features
        if not builds_shapes_only():
            record_identity(self, source.name, source.files())

    def forward(self, prompts: Sequence[str]) -> TextFeatures:
        """B prompts to tokens ``[B, M, dim]`` and pooled ``[B, pooled_dim]``, M the longest prompt."""
        rows = self._look_up(prompts)
        return stack_rows([rows[prompt] for prompt in prompts], self.pad_to)

    def prepare(self, prompts: Iterable[str]) -> None:
        """See to it that the features of all ``prompts`` are kept."""
        waiting = iter(dict.fromkeys(prompts))
        while chunk := list(islice(waiting, self.num_in_memory)):
            self._look_up(chunk)

    @property
    def is_loaded(self) -> bool:
        """Whether the encoder is in memory."""
        return bool(self._loaded)

    def file_of(self, prompt: str) -> Path | None:
        """Where the features of ``prompt`` are kept."""
        if self.folder is None:
            return None
        # all that the features depend on: the same prompt under another encoder is another file
        parts = [identity_of(self).sha256, self.source.settings(), prompt]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def _look_up(self, prompts: Sequence[str]) -> dict[str, TextRow]:
        """Features of distinct ``prompts``: from memory, else from disk, else encoded."""
        rows: dict[str, TextRow] = {}
        new: list[str] = []
        for prompt in dict.fromkeys(prompts):
            row = self._rows.get(prompt) or self._read(prompt)
            if row is None:
                new.append(prompt)
            else:
                rows[prompt] = row
        rows.update(self._encode(new))
        for prompt, row in rows.items():
            rows[prompt] = self._rows[prompt] = row.to(self.anchor.device)
            self._rows.move_to_end(prompt)
        while len(self._rows) > self.num_in_memory:
            self._rows.popitem(last=False)
        return rows

    def _encode(self, prompts: Sequence[str]) -> dict[str, TextRow]:
        if not prompts:
            return {}
        if not self._loaded:
            with torch.inference_mode(False):  # weights loaded during validation can still be moved afterwards
                self._loaded.append(self.source.load())
        encoder = self._loaded[0].to(self.device or self.anchor.device)
        rows: dict[str, TextRow] = {}
        with torch.no_grad():
            for start in range(0, len(prompts), self.batch_size):
                chunk = prompts[start : start + self.batch_size]
                for prompt, row in zip(chunk, split_rows(encoder(chunk)), strict=True):
                    # written at once: a run that is stopped keeps what it has
                    self._write(prompt, row)
                    rows[prompt] = row
        if self.unload:
            # the local name too, or the memory would not be free
            del encoder
            self._loaded.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return rows

    def _read(self, prompt: str) -> TextRow | None:
        """The row on disk, or None where there is none or it is damaged."""
        file = self.file_of(prompt)
        if file is None or not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                checksum = (stored.metadata() or {}).get("sha256")
            # safetensors notices a file that is cut off, but no bytes that changed
            problem = None if checksum == sha256_of_tensors(tensors) else "its checksum differs"
        except (SafetensorError, OSError) as error:
            problem = str(error)
        if problem is not None:
            warnings.warn(f"text features in '{file}' are damaged ({problem}) and are computed anew", stacklevel=2)
            return None
        return TextRow(tensors["tokens"], tensors.get("pooled"))

    def _write(self, prompt: str, row: TextRow) -> None:
        file = self.file_of(prompt)
        if file is None:
            return
        tensors = {"tokens": row.tokens.cpu().contiguous()}
        if row.pooled is not None:
            tensors["pooled"] = row.pooled.cpu().contiguous()
        # a name of this process and call: several may write the same prompt
        part = file.with_name(f".{file.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save(tensors, {"prompt": prompt, "sha256": sha256_of_tensors(tensors)}))
            part.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise InputError(
                f"text features cannot be kept in '{self.folder}' ({error.strerror}): set the text encoder's folder to "
                "one that can be written, or to null."
            ) from None
