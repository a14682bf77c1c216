"""Tiny audio models of the transformers library, saved as their publishers save them, with their front ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TINY_SPEECH: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}


def write_speech_model(folder: Path, kind: str, large: bool = False, seed: int = 0) -> Path:
    """A HuBERT (``Hubert``), ``WavLM`` or ``Wav2Vec2`` with its CTC head, base (group norm) or large (layer norm)."""
    import transformers

    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if large else {}
    config = getattr(transformers, f"{kind}Config")(**TINY_SPEECH, **norm)
    torch.manual_seed(seed)
    getattr(transformers, f"{kind}ForCTC")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=large).save_pretrained(folder)
    return folder


def write_whisper(folder: Path, seed: int = 0) -> Path:
    """A whole Whisper, decoder and all."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    sizes = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    torch.manual_seed(seed)
    config = WhisperConfig(d_model=32, vocab_size=40, **sizes, **heads, **special)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def write_ast(folder: Path, seed: int = 0) -> Path:
    """An AST with its classifier; the patch grid is the public one."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(seed)
    config = ASTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, num_labels=5)
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor().save_pretrained(folder)
    return folder


def write_clap(folder: Path, fused: bool = False, seed: int = 0) -> Path:
    """A CLAP with both towers; the audio tower has the public grid and front end."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    fusion = {"enable_fusion": True, "fusion_type": "aff_2d"} if fused else {}
    audio = {"depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "patch_embeds_hidden_size": 8}
    torch.manual_seed(seed)
    config = ClapConfig(
        text_config={**text, "vocab_size": 50}, audio_config={**audio, "hidden_size": 64, **fusion}, projection_dim=8
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc").save_pretrained(folder)
    return folder


def write_clap_tokenizer(folder: Path) -> Path:
    """RoBERTa's byte-level tokenizer of CLAP's text tower, letter by letter, beside a `write_clap`."""
    import string

    from transformers import RobertaTokenizer

    # a space is written as this letter
    letters = [*string.ascii_lowercase, "\u0120"]
    vocabulary = {piece: index for index, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    RobertaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    return folder


def write_speech_recogniser(folder: Path, seed: int = 0) -> Path:
    """A whole tiny Whisper that knows English and Chinese, with tokenizer, spellings and how it generates."""
    import json
    import string

    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    pieces = [*string.ascii_lowercase, "\u0120"]
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    ids = {piece: number for number, piece in enumerate([*pieces, *special])}
    folder.mkdir(exist_ok=True)
    tokenizer = WhisperTokenizer(
        vocab={piece: ids[piece] for piece in pieces} | {special[0]: ids[special[0]]}, merges=[]
    )
    tokenizer.add_tokens(special[1:], special_tokens=True)
    sizes = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_target_positions": 32}
    end = {
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
    }
    start = {"decoder_start_token_id": ids["<|startoftranscript|>"]}
    torch.manual_seed(seed)
    config = WhisperConfig(d_model=32, vocab_size=len(ids), **sizes, **heads, **end, **start)
    model = WhisperForConditionalGeneration(config)
    # large weights, so that what is written depends on what is heard and on the language
    for conv in (model.model.encoder.conv1, model.model.encoder.conv2):
        torch.nn.init.normal_(conv.weight, std=0.3)
    for layer in model.model.decoder.layers:
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            torch.nn.init.normal_(layer.encoder_attn.get_submodule(name).weight, std=2.0)
    model.generation_config = GenerationConfig(
        **end, **start, is_multilingual=True, no_timestamps_token_id=ids["<|notimestamps|>"],
        lang_to_id={"<|en|>": ids["<|en|>"], "<|zh|>": ids["<|zh|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        suppress_tokens=[ids[token] for token in special[1:]], begin_suppress_tokens=[ids["<|endoftext|>"]],
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    return folder
