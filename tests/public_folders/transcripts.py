"""Text encoders of Harmony, tiny, as their releases spell them: Wan's UMT5, ByT5 and SpeechT5."""

import io
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.public_folders.text import random_weights, write_config, write_json, write_t5_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz'.,"


def write_wan_text(folder: Path, dim: int = 32, seed: int = 0) -> None:
    """``text_encoder`` and ``tokenizer`` of a Wan release: every layer of UMT5 has relative positions of its own."""
    from transformers import UMT5Config, UMT5EncoderModel

    settings = {
        "model_type": "umt5",
        "d_ff": 48,
        "d_kv": 8,
        "d_model": dim,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "num_layers": 2,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "scalable_attention": True,
        "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer",
        "vocab_size": 256,
    }
    model = UMT5EncoderModel(UMT5Config(**settings))
    weights = random_weights(model.state_dict(), seed, torch.bfloat16)
    weights.pop("encoder.embed_tokens.weight", None)  # the same tensor as shared.weight
    write_config(folder / "text_encoder", settings, "UMT5EncoderModel", torch.bfloat16)
    save_file(weights, folder / "text_encoder" / "model.safetensors", {"format": "pt"})
    write_t5_tokenizer(folder / "tokenizer")


def write_byt5(folder: Path, dim: int = 24, seed: int = 0) -> None:
    """The whole T5 with its decoder, as a pickle, which is how ``google/byt5-small`` is published."""
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {
        "model_type": "t5",
        "d_ff": 32,
        "d_kv": 8,
        "d_model": dim,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "num_layers": 3,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "tokenizer_class": "ByT5Tokenizer",
        "vocab_size": 384,
    }
    weights = random_weights(T5ForConditionalGeneration(T5Config(**settings)).state_dict(), seed, torch.float32)
    write_config(folder, settings, "T5ForConditionalGeneration", torch.float32)
    torch.save(weights, folder / "pytorch_model.bin")


def write_speecht5(folder: Path, dim: int = 24, seed: int = 0) -> None:
    """``speecht5_tts``: the text encoder below ``speecht5.encoder.``, the decoder beside it, and its characters."""
    import sentencepiece
    from transformers import SpeechT5Config, SpeechT5ForTextToSpeech

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(LETTERS), "the quick, brown fox. it's here"]),
        model_writer=trained,
        model_type="char",
        vocab_size=40,
        hard_vocab_limit=False,
        character_coverage=1.0,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spm_char.model").write_bytes(trained.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()).get_piece_size()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", special | {
        "model_max_length": 600, "sp_model_kwargs": {}, "tokenizer_class": "SpeechT5Tokenizer", "normalize": False
    })  # fmt: skip
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "added_tokens.json", {"<ctc_blank>": pieces + 1, "<mask>": pieces})
    settings = {
        "model_type": "speecht5",
        "hidden_size": dim,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 32,
        "max_text_positions": 60,
        "max_speech_positions": 60,
        "num_mel_bins": 8,
        "speech_decoder_postnet_layers": 1,
        "speech_decoder_postnet_units": 8,
        "speech_decoder_prenet_units": 8,
        "speaker_embedding_dim": 8,
        "vocab_size": pieces + 2,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    state = SpeechT5ForTextToSpeech(SpeechT5Config(**settings)).state_dict()
    (folder / "config.json").write_text(json.dumps({"architectures": ["SpeechT5ForTextToSpeech"], **settings}))
    torch.save(random_weights(state, seed, torch.float32), folder / "pytorch_model.bin")
