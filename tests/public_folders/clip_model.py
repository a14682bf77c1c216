"""A tiny CLIP with its tokenizer and front end, saved as its publisher saves it."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.public_folders.text import clip_vocabulary, write_clip_tokenizer


def write_clip_model(folder: Path, seed: int = 0) -> Path:
    """Both towers; pictures of 32 pixels a side."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vocabulary, _ = clip_vocabulary()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={**sizes, **special, "vocab_size": len(vocabulary)},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    write_clip_tokenizer(folder)
    return folder
