"""The networks that judge clips, at their public sizes with random weights, and what each is given of a clip.

The clip is what Harmony's tables are of: 5 s of 480x832 at 25 fps with mono sound at 16 kHz. Each judge gets it in
portions, as its scorer hands it over by default; the front ends' own work (resizing, mels) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.contracts import ClipBatch
from components.encoders.audio.whisper import PUBLIC as WHISPERS
from components.metrics.av_align.scorer import AVAlign
from components.metrics.avsync_classifier.model import AVSyncClassifier
from components.metrics.faces.mtcnn import MTCNN
from components.metrics.faces.s3fd_net import S3FDNet
from components.metrics.scorers import real_clips
from components.metrics.sound.aesthetics_net import AestheticsNet
from components.metrics.sound.panns import Cnn14
from components.metrics.sound.vggish import EXAMPLE_FRAMES, HOP, NUM_MELS, VggishNet
from components.metrics.speech.dnsmos import Dnsmos
from components.metrics.speech.voice_encoder import WINDOW_FRAMES, VoiceEncoder, window_starts
from components.metrics.synchformer.audio_tower import MEL_BANDS, SEGMENT_MELS
from components.metrics.synchformer.model import WINDOW_SEGMENTS, Synchformer
from components.metrics.synchformer.video_tower import IMAGE_SIZE, SEGMENT_FRAMES
from components.metrics.syncnet.model import WINDOW_CEPSTRA, SyncNet
from components.metrics.video.aesthetic_quality import ScoringHead
from components.metrics.video.frames import frames_at
from components.metrics.video.inception_net import FidInception
from components.metrics.video.musiq import Musiq

SECONDS, FPS, HEIGHT, WIDTH, SAMPLE_RATE = 5, 25, 480, 832, 16_000
FRAMES, SAMPLES = SECONDS * FPS, SECONDS * SAMPLE_RATE
WORD_TOKENS = 32
"""Of a caption, or of what is said within 5 s."""


@dataclass(frozen=True)
class Judge:
    """A judge of one clip.

    Attributes:
        entries: what it says, as docs/evaluation.md names it.
        network: which weights that takes.
        build: makes the network on the default device.
        run: what is computed at a time, of pictures and sounds made on the default device.
        portions: how often ``run`` goes into a clip.
        shapes_suffice: it runs on the meta device; else FLOPs are counted while a CPU computes.
        counted: whether PyTorch computes it, so that its FLOPs can be counted at all.
    """

    entries: str
    network: str
    build: Callable[[], nn.Module]
    run: Callable[[Any], object]
    portions: float = 1.0
    shapes_suffice: bool = True
    counted: bool = True


def pictures(count: int, height: int, width: int | None = None) -> Tensor:
    """``[count, 3, height, width]`` in [0, 1]; square where no width is given."""
    return torch.rand(count, 3, height, width or height)


def desync(net: Synchformer) -> Tensor:
    """All 14 segments of a clip of 5 s, which are one window."""
    video = net.embed_video(torch.rand(WINDOW_SEGMENTS, SEGMENT_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE))
    sound = net.embed_sound(torch.rand(WINDOW_SEGMENTS, MEL_BANDS, SEGMENT_MELS))
    return net.offset_logits(video[None], sound[None])


def lip_sync(net: SyncNet) -> tuple[Tensor, Tensor]:
    """One face throughout the clip, 32 windows at a time, each with its sound."""
    lips = net.embed_lips(255 * torch.rand(1, 3, 32 + 4, net.image_size, net.image_size))
    return lips, net.embed_sound(torch.rand(32, 1, 13, WINDOW_CEPSTRA))


def mtcnn(net: MTCNN) -> object:
    """Eight frames; how many pieces the second and the third network look at depends on the pictures."""
    return net.detect(pictures(8, HEIGHT, WIDTH))


def in_step(net: AVSyncClassifier) -> Tensor:
    """Two seconds: 12 frames and their log-mels."""
    return net(torch.rand(1, 1, 128, 204), torch.rand(1, 3, 12, 224, 224))  # type: ignore[no-any-return]


def av_align(judge: AVAlign) -> object:
    """Optical flow between all frames, and onsets. OpenCV computes it, on a CPU."""
    with torch.device("cpu"):
        sound = torch.rand(SAMPLES) - 0.5
        return judge.peaks(pictures(FRAMES, HEIGHT, WIDTH), FPS), judge.onsets(sound, SAMPLE_RATE, SECONDS)


def raft(net: nn.Module) -> Tensor:
    """Four pairs of frames, 20 refinements."""
    flow: Tensor = net(pictures(4, HEIGHT, WIDTH), pictures(4, HEIGHT, WIDTH), num_flow_updates=20)[-1]
    return flow


def clip_score(net: Any) -> object:
    """48 frames, 32 at a time, and the caption."""
    found = [net.get_image_features(part) for part in pictures(48, 224).split(32)]
    return found, net.get_text_features(torch.zeros(1, WORD_TOKENS, dtype=torch.int64))


def clap_sound(net: Any) -> object:
    """The front end fills 5 s up to 10 s of log-mels."""
    return net.get_audio_features(torch.rand(1, 1, 1001, 64), is_longer=torch.zeros(1, 1, dtype=torch.bool))


def clap_score(net: Any) -> object:
    """Sound and caption."""
    return clap_sound(net), net.get_text_features(torch.zeros(1, WORD_TOKENS, dtype=torch.int64))


def whisper(net: Any) -> object:
    """30 s as always, and all words in one pass, whose FLOPs are those of one word after the other."""
    mels = torch.rand(1, net.config.num_mel_bins, 3000)
    return net(mels, decoder_input_ids=torch.zeros(1, WORD_TOKENS, dtype=torch.int64))


def voices(net: VoiceEncoder) -> list[Tensor]:
    """The generated voice and one of the same length that is given."""
    count = len(window_starts(SAMPLES))
    return [net.windows(torch.rand(count, WINDOW_FRAMES, 40)) for _ in range(2)]


def dnsmos(judge: Dnsmos) -> object:
    """The sound, repeated until it fills one window. ONNX Runtime computes it, on a CPU."""
    with torch.device("cpu"):
        sound, video = torch.rand(1, SAMPLES) - 0.5, torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)
        return judge.score_clip(real_clips(ClipBatch(["clip"], video, FPS, sound, SAMPLE_RATE, [""], ["clip"])), 0)


def _of_transformers(model: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        net: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings))
        return net

    return build


def _aesthetic_v25() -> nn.Module:
    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    net = _of_transformers("SiglipVisionModel", "SiglipVisionConfig", **sizes, image_size=384, patch_size=14)()
    return nn.ModuleDict({"net": net, "head": ScoringHead(1152)})


def _dino() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    net: nn.Module = ViTModel(ViTConfig(), add_pooling_layer=False)
    return net


def _raft() -> nn.Module:
    from torchvision.models.optical_flow import raft_large

    net: nn.Module = raft_large()
    return net


def _whisper_large_v3() -> nn.Module:
    sizes = WHISPERS["openai/whisper-large-v3"]
    decoder = {f"decoder_{name}": sizes[f"encoder_{name}"] for name in ("layers", "attention_heads", "ffn_dim")}
    return _of_transformers("WhisperForConditionalGeneration", "WhisperConfig", **sizes, **decoder, vocab_size=51866)()


_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_clip = _of_transformers("CLIPModel", "CLIPConfig")
_clip_large = _of_transformers(
    "CLIPVisionModelWithProjection", "CLIPVisionConfig", **_LARGE, patch_size=14, projection_dim=768
)
_dinov3 = _of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", **_LARGE, patch_size=16, num_register_tokens=4)
_clap = _of_transformers("ClapModel", "ClapConfig")

_FLOW_PAIRS = len(range(0, FRAMES, round(FPS / 8))) - 1
_MUSIQ_SIZE = int(HEIGHT * 512 / WIDTH), 512
_DINO_SIZE = 224, int(224 * WIDTH / HEIGHT)
_ASVA_FRAMES = len(frames_at(FRAMES, FPS, 6.0))

JUDGES = (
    Judge("sync_c, sync_d", "SyncNet, one face", SyncNet, lip_sync, (FRAMES - 4) / 32),
    Judge("faces for these", "MTCNN", MTCNN, mtcnn, FRAMES / 8, shapes_suffice=False),
    Judge("faces for these", "S3FD", S3FDNet, lambda net: net(pictures(8, HEIGHT // 4, WIDTH // 4)), FRAMES / 8),
    Judge("desync", "Synchformer", Synchformer, desync),
    Judge("relsync", "ASVA's classifier", AVSyncClassifier, in_step, 2 * 3),
    Judge("av_align", "none: OpenCV", AVAlign, av_align, counted=False),
    Judge("fid, kid, is", "Inception, 299", FidInception, lambda net: net(pictures(16, 299)), FRAMES / 16),
    Judge("fid at 6 Hz", "Inception, 229", FidInception, lambda net: net(pictures(16, 229)), (_ASVA_FRAMES - 1) / 16),
    Judge(
        "aesthetic_quality",
        "SigLIP so400m",
        _aesthetic_v25,
        lambda net: net["head"](net["net"](pictures(8, 384)).pooler_output),
        FRAMES / 8,
    ),
    Judge("aesthetic_quality_laion", "CLIP ViT-L/14", _clip_large, lambda net: net(pictures(16, 224)), FRAMES / 16),
    Judge(
        "imaging_quality",
        "MUSIQ",
        Musiq,
        lambda net: net(pictures(1, *_MUSIQ_SIZE)[0]),
        FRAMES,
        shapes_suffice=False,
    ),
    Judge("dynamic_degree", "RAFT", _raft, raft, _FLOW_PAIRS / 4),
    Judge("reference_identity", "DINOv3 ViT-L/16", _dinov3, lambda net: net(pictures(16, 224)), (FRAMES + 1) / 16),
    Judge(
        "subject_consistency",
        "DINO ViT-B/16",
        _dino,
        lambda net: net(pictures(16, *_DINO_SIZE), interpolate_pos_encoding=True),
        FRAMES / 16,
    ),
    Judge("clip_score", "CLIP ViT-B/32", _clip, clip_score),
    Judge("pq, pc, ce, cu", "WavLM", AestheticsNet, lambda net: net(torch.rand(1, 160_000), torch.tensor([SAMPLES]))),
    Judge("kl", "Cnn14 (PANNs)", Cnn14, lambda net: net(torch.rand(1, SAMPLES)), 2),
    Judge("FD, IS of sound", "Cnn14 (PANNs)", Cnn14, lambda net: net(torch.rand(1, SAMPLES))),
    Judge(
        "FAD",
        "VGGish",
        VggishNet,
        lambda net: net(torch.rand(SAMPLES // (HOP * EXAMPLE_FRAMES), EXAMPLE_FRAMES, NUM_MELS)),
    ),
    Judge("FAD", "CLAP", _clap, clap_sound),
    Judge("clap_score", "CLAP", _clap, clap_score, shapes_suffice=False),
    Judge("wer, cer", "Whisper large-v3", _whisper_large_v3, whisper),
    Judge("dnsmos_*", "two, by ONNX Runtime", Dnsmos, dnsmos, counted=False),
    Judge("speaker_similarity", "Resemblyzer", VoiceEncoder, voices),
)
"""All but those that come as programs or packages of their own: I3D, an interpolator, ImageBind, PaSST, V2A models."""
