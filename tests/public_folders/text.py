"""The text folders of the two public Pyramid Flow releases, tiny: real classes, real file formats, random weights.

``write_miniflux_text`` and ``write_sd3_text`` write every file of ``text_encoder*`` and ``tokenizer*`` as the
releases spell them: names of CLIP's tensors begin with ``text_model.``, its end token is given as 2, T5 comes in two
shards with an index.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WORDS = ("a", "the", "dog", "barks", "hammer", "strikes", "wood", "violin", "plays", "slowly", "lion", "roars", "frog")
"""Words with merges of their own; every other text is spelled letter by letter."""

NUM_PIECES = 64
NUM_SENTINELS = 100
CLIP_POSITIONS = 77


def write_miniflux_text(
    folder: Path, seed: int = 0, joint_dim: int = 32, pooled_dim: int = 16, dtype: torch.dtype = torch.bfloat16
) -> None:
    """CLIP-L (``pooled_dim`` wide) and T5 (``joint_dim`` wide), as in ``pyramid-flow-miniflux``."""
    write_clip(folder / "text_encoder", pooled_dim, seed, dtype, projected=False)
    write_t5(folder / "text_encoder_2", joint_dim, seed + 1, dtype)
    write_clip_tokenizer(folder / "tokenizer")
    write_t5_tokenizer(folder / "tokenizer_2")


def write_sd3_text(
    folder: Path, seed: int = 0, joint_dim: int = 32, pooled_dim: int = 32, dtype: torch.dtype = torch.bfloat16
) -> None:
    """CLIP-L and CLIP-bigG (``pooled_dim`` wide together, 3 to 5) and T5, as in ``pyramid-flow-sd3``."""
    small = pooled_dim * 3 // 8
    write_clip(folder / "text_encoder", small, seed, dtype, projected=True)
    write_clip(folder / "text_encoder_2", pooled_dim - small, seed + 1, dtype, projected=True, hidden_act="gelu")
    write_t5(folder / "text_encoder_3", joint_dim, seed + 2, dtype)
    write_clip_tokenizer(folder / "tokenizer")
    write_clip_tokenizer(folder / "tokenizer_2", pad_token="!")
    write_t5_tokenizer(folder / "tokenizer_3")


def write_clip(
    folder: Path, width: int, seed: int, dtype: torch.dtype, projected: bool, hidden_act: str = "quick_gelu"
) -> None:
    """One CLIP text model whose pooled vector is ``width`` wide; inside it is 16 wide if that is projected."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    settings = {
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "hidden_act": hidden_act,
        "hidden_size": 16 if projected else width,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": CLIP_POSITIONS,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "projection_dim": width,
        "vocab_size": len(clip_vocabulary()[0]),
    }
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    weights = random_weights(kind(CLIPTextConfig(**settings)).state_dict(), seed, dtype)
    public = {
        k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": w for k, w in weights.items()
    }
    write_config(folder, settings, kind.__name__, dtype)
    save_file(public, folder / "model.safetensors", {"format": "pt"})


def write_t5(folder: Path, width: int, seed: int, dtype: torch.dtype) -> None:
    """One T5 v1.1 encoder, ``width`` wide, in two shards."""
    from transformers import T5Config, T5EncoderModel

    settings = {
        "model_type": "t5",
        "d_ff": 48,
        "d_kv": 8,
        "d_model": width,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "num_layers": 2,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": NUM_PIECES + NUM_SENTINELS + 28,  # more than the tokenizer has, as in the release
    }
    weights = random_weights(T5EncoderModel(T5Config(**settings)).state_dict(), seed, dtype)
    weights.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    write_config(folder, settings, "T5EncoderModel", dtype)
    names = sorted(weights)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / file, {"format": "pt"})
    index = {
        "metadata": {"total_size": sum(w.numel() * w.element_size() for w in weights.values())},
        "weight_map": {key: file for file, keys in shards.items() for key in keys},
    }
    write_json(folder / "model.safetensors.index.json", index)


def random_weights(state: dict[str, Tensor], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights large enough for every token and position to matter; norms close to one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name in sorted(state):
        if state[name].is_floating_point():
            noise = torch.randn(state[name].shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            weights[name] = (1 + 0.1 * noise if is_norm else 0.3 * noise).to(dtype)
    return weights


def write_config(folder: Path, settings: dict[str, Any], architecture: str, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    config = {"architectures": [architecture], **settings, "torch_dtype": name, "transformers_version": "4.39.3"}
    write_json(folder / "config.json", config)


def write_clip_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> None:
    """``vocab.json`` and ``merges.txt`` of a byte-level BPE with CLIP's special tokens."""
    vocabulary, merges = clip_vocabulary()
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    ids = sorted({vocabulary[token] for token in (*special.values(), pad_token)})
    names = {index: token for token, index in vocabulary.items()}
    write_json(folder / "special_tokens_map.json", {name: flags(token) for name, token in special.items()} | {
        "pad_token": pad_token
    })  # fmt: skip
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): {**flags(names[index]), "special": True} for index in ids},
        **special,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CLIP_POSITIONS,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
    })  # fmt: skip


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Bytes, bytes at the end of a word, what the merges make, and the two special tokens last."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    letters.remove("!")
    letters.insert(0, "!")  # token 0, as in the release
    pieces, merges = letters + [f"{letter}</w>" for letter in letters], []
    for word in WORDS:
        made, *rest = [*word[:-1], f"{word[-1]}</w>"]
        for piece in rest:
            if made + piece not in pieces:
                merges.append(f"{made} {piece}")
                pieces.append(made + piece)
            made += piece
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {piece: index for index, piece in enumerate(pieces)}, merges


def write_t5_tokenizer(folder: Path, tokenizer_json: bool = True) -> None:
    """``spiece.model``, trained on `WORDS`, and ``tokenizer.json``, the same in another format, if asked for."""
    import sentencepiece

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS), *WORDS, "the dog barks slowly", "a lion roars", "The Quick, 1 2 3."]),
        model_writer=trained,
        vocab_size=NUM_PIECES,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(trained.getvalue())
    pieces, charsmap = spiece_content(trained.getvalue())
    sentinels = [f"<extra_id_{i}>" for i in range(NUM_SENTINELS)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    numbers = {0: "<pad>", 1: "</s>", 2: "<unk>"}
    numbers |= {len(pieces) + NUM_SENTINELS - 1 - i: sentinel for i, sentinel in enumerate(sentinels)}
    added = {index: {**flags(numbers[index]), "special": True} for index in sorted(numbers)}
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": sentinels} | {
        name: flags(token) for name, token in special.items()
    })  # fmt: skip
    write_json(folder / "tokenizer_config.json", {
        "add_prefix_space": True,
        "added_tokens_decoder": {str(index): token for index, token in added.items()},
        "additional_special_tokens": sentinels,
        "clean_up_tokenization_spaces": True,
        **special,
        "extra_ids": NUM_SENTINELS,
        "legacy": True,
        "model_max_length": 512,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    })  # fmt: skip
    if tokenizer_json:
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
        ending = {"SpecialToken": {"id": "</s>", "type_id": 0}}
        first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        write_json(folder / "tokenizer.json", {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": index, **token} for index, token in added.items()],
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [first, ending],
                "pair": [first, ending, second, ending],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
            },
            "decoder": metaspace,
            "model": {
                "type": "Unigram",
                "unk_id": 2,
                "vocab": [*pieces, *([sentinel, 0.0] for sentinel in reversed(sentinels))],
                "byte_fallback": False,
            },
        })  # fmt: skip


def spiece_content(model: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """Pieces with their scores, and the table of character replacements."""
    from sentencepiece import sentencepiece_model_pb2

    content = sentencepiece_model_pb2.ModelProto.FromString(model)
    return [(piece.piece, piece.score) for piece in content.pieces], content.normalizer_spec.precompiled_charsmap


def flags(token: str) -> dict[str, Any]:
    return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
