"""A tiny CLIP and a tiny CLAP with their tokenizers and front ends, saved as their publishers save them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.public_folders.audio_models import write_clap
from tests.public_folders.text import clip_vocabulary, write_clip_tokenizer, write_json


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


def write_clap_model(folder: Path, seed: int = 0) -> Path:
    """Both towers and RoBERTa's tokenizer, which spells every word by letters."""
    from tokenizers.pre_tokenizers import ByteLevel

    write_clap(folder, seed=seed)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [letter for letter in sorted(ByteLevel.alphabet()) if letter in "abcdefghijklmnopqrstuvwxyzĠ."]
    pieces = [*special, *letters, "<mask>"]
    write_json(folder / "vocab.json", {piece: index for index, piece in enumerate(pieces)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    return folder
