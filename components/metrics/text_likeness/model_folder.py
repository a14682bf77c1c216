"""A model of the transformers library that has a text tower, with its tokenizer, out of one folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from components.encoders.transformers_model import load_audio_model
from components.errors import InputError
from components.weights.pretrained import Sha256, builds_shapes_only, resolve_folder


def load_with_tokenizer(
    class_name: str, checkpoint: str, public: Mapping[str, Mapping[str, Any]], sha256: Sha256
) -> tuple[Any, Any]:
    """The frozen model in float32 and its tokenizer; no tokenizer where only shapes are built.

    Raises:
        InputError: if a file is absent or damaged, or the folder holds another model.
    """
    model = load_audio_model(class_name, checkpoint, "float32", public, sha256=sha256)
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


def text_vector(model: Any, tokenizer: Any, prompt: str) -> Tensor:
    """The text tower's vector ``[D]``; what is too long for it is cut off."""
    config = model.config.text_config
    # RoBERTa, in CLAP, counts positions from behind its padding token
    unused = config.pad_token_id + 1 if config.model_type == "clap_text_model" else 0
    tokens = tokenizer(
        prompt, truncation=True, max_length=config.max_position_embeddings - unused, return_tensors="pt"
    ).to(next(model.parameters()).device)
    vector: Tensor = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
    return vector[0]
