"""Whisper as a recogniser, through transformers.

Radford et al. (arXiv 2212.04356). Papers report ``openai/whisper-large-v3``; its weights are Apache-2.0.

Legend for shapes: S samples.
"""

from __future__ import annotations

import json

from torch import Tensor

from components.encoders.audio.whisper import PUBLIC
from components.encoders.transformers_model import load_audio_model, load_feature_extractor
from components.errors import InputError
from components.metrics.sound.clip_sound import pieces
from components.metrics.sound.tokenizer import load_tokenizer
from components.metrics.speech.recogniser import SpeechRecogniser
from components.weights.identity import identity_of, inherit_identity
from components.weights.named_files import names_files
from components.weights.pretrained import Sha256, builds_shapes_only, resolve_folder

_WHOLE = {
    name: {
        **config,
        "decoder_layers": config["encoder_layers"],
        "decoder_attention_heads": config["encoder_attention_heads"],
        "decoder_ffn_dim": config["encoder_ffn_dim"],
        # large-v3 knows one language more
        "vocab_size": 51866 if config["num_mel_bins"] == 128 else 51865,
    }
    for name, config in PUBLIC.items()
}
_FIRST_TOKENS = 4
"""Every text begins with a start, its language, the task and that no times are wanted; an English one without two."""
_PIECE_S = 30
"""Whisper always hears 30 s."""


@names_files(checkpoint=None)
class Whisper(SpeechRecogniser):
    """Writes down what is said, greedily: the same sound gives the same text.

    Sound of more than 30 s is cut into the fewest equal pieces, and their texts are joined.

    Args:
        checkpoint: folder or hub repository.
        dtype: precision of the weights: float32, bfloat16 or float16.
        max_tokens: where a text ends that would not end by itself.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the checkpoint is absent, damaged or another model, or ``max_tokens`` is too large for it.
    """

    def __init__(
        self,
        checkpoint: str = "hf://openai/whisper-large-v3",
        dtype: str = "float32",
        max_tokens: int = 200,
        sha256: Sha256 = None,
    ) -> None:
        super().__init__()
        self.model = load_audio_model("WhisperForConditionalGeneration", checkpoint, dtype, _WHOLE, sha256=sha256)
        inherit_identity(self, self.model)
        longest = self.model.config.max_target_positions - _FIRST_TOKENS
        if not 0 < max_tokens <= longest:
            raise InputError(f"Whisper.max_tokens is {max_tokens}; '{checkpoint}' can write 1 to {longest}")
        self.front_end = load_feature_extractor("WhisperFeatureExtractor", checkpoint)
        self.tokenizer = None if builds_shapes_only() else load_tokenizer(checkpoint)
        self.english_spelling = {} if builds_shapes_only() else _spelling(checkpoint)
        self.sample_rate: int = self.front_end.sampling_rate
        self.dtype_name, self.max_tokens = dtype, max_tokens
        self.eval()

    def transcribe(self, sound: Tensor, language: str) -> str:
        """What is said in a sound ``[S]``."""
        texts = (self._text_of(piece, language) for piece in pieces(sound, _PIECE_S * self.sample_rate))
        return " ".join(filter(None, texts))

    def _text_of(self, piece: Tensor, language: str) -> str:
        if self.tokenizer is None:
            raise InputError("Whisper was built without weights, so it hears nothing; build it on a real device")
        fed = self.front_end(
            piece.cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt", return_attention_mask=True
        )
        # a model of English alone cannot be asked for a language
        multilingual = getattr(self.model.generation_config, "is_multilingual", True)
        asked = {"task": "transcribe", "language": self._known(language)} if multilingual else {}
        tokens = self.model.generate(
            fed["input_features"].to(piece.device, self.model.dtype),
            attention_mask=fed["attention_mask"].to(piece.device),
            do_sample=False,
            num_beams=1,
            # not max_new_tokens, beside which the library warns of the model's own limit at every clip; these are
            # counted after the first tokens too
            max_length=self.max_tokens,
            **asked,
        )
        return str(self.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]).strip()

    def _known(self, language: str) -> str | None:
        """The language, or None for Whisper to find out.

        Raises:
            InputError: if Whisper does not know it.
        """
        known = getattr(self.model.generation_config, "lang_to_id", None) or {}
        if language and f"<|{language}|>" not in known:
            raise InputError(
                f"the language '{language}' is none that this Whisper knows; correct the clip's language, or leave it "
                "empty for Whisper to find out"
            )
        return language or None

    def identity(self) -> dict[str, object]:
        """The SHA-256 of the weights, their precision and how long a text may get."""
        return {
            "recogniser": "Whisper",
            "weights_sha256": identity_of(self).sha256,
            "dtype": self.dtype_name,
            "max_tokens": self.max_tokens,
        }


def _spelling(checkpoint: str) -> dict[str, str]:
    """American spellings of British ones, which come with every public Whisper.

    Raises:
        InputError: if the file is absent or damaged.
    """
    file = resolve_folder(checkpoint) / "normalizer.json"
    try:
        return {str(word): str(other) for word, other in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        raise InputError(
            f"'{file}' is absent or damaged, but English is compared by its spellings; download the whole folder"
        ) from None
