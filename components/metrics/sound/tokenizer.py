"""The tokenizer that lies beside a model of transformers."""

from __future__ import annotations

from typing import Any

from components.errors import InputError
from components.weights.pretrained import resolve_folder


def load_tokenizer(checkpoint: str) -> Any:
    """The tokenizer of a folder or hub repository.

    Raises:
        InputError: if the folder does not hold it.
    """
    from transformers import AutoTokenizer

    folder = resolve_folder(checkpoint)
    # transformers would build one without words
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise InputError(f"'{folder}' has no tokenizer.json and no vocab.json; download the whole folder")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"'{folder}' holds no usable tokenizer ({reason}); download the whole folder") from None
