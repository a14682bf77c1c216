"""Digests given for public weights: every loader compares them before it uses a file, and says what differs."""

import hashlib
import inspect
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.backbones.harmony import (
    audio_tower_from_wan,
    harmony_audio_tower,
    harmony_video_tower,
    load_harmony,
    ovi_audio_tower,
)
from components.backbones.pyramid_flow import pretrained_backbone
from components.backbones.wan import wan_tower
from components.codecs.audio.mmaudio import MMAudioCodec
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.wan import WanVideoCodec
from components.encoders.audio.clap import ClapAudioEncoder
from components.encoders.audio.denseav import DenseAVEncoder
from components.encoders.audio.spectrogram_transformer import SpectrogramTransformerEncoder
from components.encoders.audio.speech_models import SpeechEncoder
from components.encoders.audio.whisper import WhisperAudioEncoder
from components.encoders.text.pyramid_flow_folder import PyramidFlowTextFolder, pyramid_flow_text
from components.encoders.text.umt5 import WanTextFolder, umt5_text
from components.encoders.transcript.cached import TranscriptFolder
from components.encoders.transcript.pretrained import ByT5Transcript, SpeechT5Transcript
from components.errors import InputError
from components.metrics.syncnet.model import SyncNet
from components.v2a.onset_v2a import OnsetV2A
from components.weights import identity
from components.weights.digests import check_digests
from components.weights.identity import identity_of, sha256_of, summed_files
from components.weights.places import PACKAGE_ROOT
from tests.public_folders.audio_models import write_ast, write_clap, write_speech_model, write_whisper
from tests.public_folders.denseav import write_hub_folder
from tests.public_folders.harmony import write_harmony_releases
from tests.public_folders.pyramid_flow import write_miniflux_release
from tests.public_folders.transcripts import write_speecht5

ZEROS = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# --- what is compared ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "release" / "vae").mkdir(parents=True)
    (tmp_path / "release" / "model.bin").write_bytes(b"weights")
    (tmp_path / "release" / "vae" / "model.bin").write_bytes(b"others")
    return tmp_path / "release"


def test_a_file_and_files_by_their_names(folder: Path):
    digests = {name: sha256_of(folder / name) for name in ("model.bin", "vae/model.bin")}
    check_digests(folder, None)
    check_digests(folder, digests)
    check_digests(folder, {"model.bin": digests["model.bin"].upper()})
    check_digests(folder / "model.bin", digests["model.bin"])
    check_digests(folder / "model.bin", {"model.bin": digests["model.bin"]})


def test_another_digest_names_the_file_and_both(folder: Path):
    found = hashlib.sha256(b"others").hexdigest()
    sentence = (
        f"weights file '{folder}/vae/model.bin' has the SHA-256 {found}, but sha256 asks for {ZEROS}; download it "
        "anew, or correct sha256"
    )
    for place, given in ((folder, {"vae/model.bin": ZEROS}), (folder / "vae" / "model.bin", ZEROS)):
        with pytest.raises(InputError) as error:
            check_digests(place, given)
        assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("place", "given", "sentence"),
    [
        (
            "",
            {"vea/model.bin": ZEROS},
            r"sha256 names 'vea/model\.bin', .* \(it has model\.bin, vae/model\.bin\); corr",
        ),
        ("", {"vae": ZEROS}, "sha256 names 'vae', but there is no such file"),
        ("vae", {"../model.bin": ZEROS}, r"sha256 names '\.\./model\.bin'"),
        ("model.bin", {"other.bin": ZEROS}, r"sha256 names 'other\.bin'"),
        ("", ZEROS, r"sha256 is a single digest, but '.*release' is a folder .*; give a mapping"),
        ("model.bin", "abc", r"sha256 of 'model\.bin' is 'abc', which is no SHA-256; give its 64 hex"),
        ("", {"model.bin": 12}, r"sha256 of 'model\.bin' is 12, which is no SHA-256"),
    ],
)
def test_what_does_not_suit_is_refused(folder: Path, place: str, given: Any, sentence: str):
    with pytest.raises(InputError, match=sentence):
        check_digests(folder / place, given)


# --- every loader ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All public weights at toy size."""
    root = tmp_path_factory.mktemp("releases")
    write_miniflux_release(root / "miniflux")
    write_harmony_releases(root)
    write_hub_folder(root / "denseav")
    write_speech_model(root / "hubert", "Hubert")
    write_whisper(root / "whisper")
    write_ast(root / "ast")
    write_clap(root / "clap")
    write_speecht5(root / "speecht5")
    shutil.copytree(PACKAGE_ROOT / "configs/weights/quickstart_v2a", root / "onsets")
    (root / "harmony").mkdir()
    (root / "harmony" / "config.json").write_text(json.dumps({"_class_name": "HarmonyTransformer"}))
    return root


WAN = "wan/transformer/diffusion_pytorch_model.safetensors"
Loader = Callable[[Path, dict[str, str] | None], object]
LOADERS: dict[str, tuple[str, Loader]] = {
    "backbone": (
        "miniflux/diffusion_transformer_384p/diffusion_pytorch_model.safetensors",
        lambda at, given: pretrained_backbone(str(at / "miniflux"), "diffusion_transformer_384p", sha256=given),
    ),
    "causal VAE": (
        "miniflux/causal_video_vae/diffusion_pytorch_model.bin",
        lambda at, given: CausalVideoCodec.from_pretrained(at / "miniflux/causal_video_vae", sha256=given),
    ),
    "Wan": (WAN, lambda at, given: wan_tower(str(at / "wan"), "transformer", sha256=given)),
    "Wan, one file": (WAN, lambda at, given: wan_tower(str(at / WAN), head_dim=24, sha256=given)),
    "audio tower from Wan": (WAN, lambda at, given: audio_tower_from_wan(str(at / "wan/transformer"), sha256=given)),
    "Ovi": (WAN, lambda at, given: ovi_audio_tower(str(at / WAN), sha256=given)),
    "Harmony": ("harmony/config.json", lambda at, given: load_harmony(str(at / "harmony"), sha256=given)),
    "its audio tower": (
        "harmony/config.json",
        lambda at, given: harmony_audio_tower(str(at / "harmony"), sha256=given),
    ),
    "its video tower": (
        "harmony/config.json",
        lambda at, given: harmony_video_tower(str(at / "harmony"), sha256=given),
    ),
    "Wan's VAE": (
        "wan/vae/diffusion_pytorch_model.safetensors",
        lambda at, given: WanVideoCodec(at / "wan", sha256=given),
    ),
    "MMAudio's VAE": (
        "mmaudio/v1-16.pth",
        lambda at, given: MMAudioCodec(at / "mmaudio/v1-16.pth", vae_sha256=given),
    ),
    "MMAudio's vocoder": (
        "mmaudio/best_netG.pt",
        lambda at, given: MMAudioCodec(at / "mmaudio/v1-16.pth", at / "mmaudio/best_netG.pt", vocoder_sha256=given),
    ),
    "DenseAV": ("denseav/model.safetensors", lambda at, given: DenseAVEncoder(str(at / "denseav"), sha256=given)),
    "speech": ("hubert/model.safetensors", lambda at, given: SpeechEncoder(str(at / "hubert"), sha256=given)),
    "Whisper": ("whisper/model.safetensors", lambda at, given: WhisperAudioEncoder(str(at / "whisper"), sha256=given)),
    "AST": ("ast/model.safetensors", lambda at, given: SpectrogramTransformerEncoder(str(at / "ast"), sha256=given)),
    "CLAP": ("clap/model.safetensors", lambda at, given: ClapAudioEncoder(str(at / "clap"), sha256=given)),
    "Pyramid Flow's text": (
        "miniflux/text_encoder/model.safetensors",
        lambda at, given: PyramidFlowTextFolder(str(at / "miniflux"), sha256=within("text_encoder", given)),
    ),
    "UMT5": (
        "wan/text_encoder/config.json",
        lambda at, given: WanTextFolder(str(at / "wan"), sha256=within("text_encoder", given)),
    ),
    "ByT5": ("byt5/pytorch_model.bin", lambda at, given: ByT5Transcript(str(at / "byt5"), sha256=given)),
    "transcripts": ("byt5/pytorch_model.bin", lambda at, given: TranscriptFolder(str(at / "byt5"), sha256=given)),
    "SpeechT5": (
        "speecht5/pytorch_model.bin",
        lambda at, given: SpeechT5Transcript(str(at / "speecht5"), max_characters=40, sha256=given),
    ),
    "SyncNet": ("syncnet_v2.model", lambda at, given: SyncNet.from_pretrained(at / "syncnet_v2.model", given)),
    "OnsetV2A": ("onsets/model.safetensors", lambda at, given: OnsetV2A.from_pretrained(at / "onsets", given)),
}
"""Name -> a file that it reads, and how it is called with the digest of that file."""

NO_MODELS = (
    "Ovi",
    "Harmony",
    "its audio tower",
    "its video tower",
)  # here their files stand for themselves: digests come first


def within(subfolder: str, given: dict[str, str] | None) -> dict[str, str] | None:
    return given and {f"{subfolder}/{name}": digest for name, digest in given.items()}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_refuses_other_weights_before_it_reads_them(name: str, releases: Path):
    path, load = LOADERS[name]
    file = releases / path
    with pytest.raises(InputError, match=rf"weights file '{file}' has the SHA-256 \w+, but sha256 asks for 0000"):
        load(releases, {file.name: ZEROS})
    with pytest.raises(InputError, match=r"sha256 names '(text_encoder/)?none\.bin', but there is no such file"):
        load(releases, {"none.bin": ZEROS})
    if name not in NO_MODELS:
        load(releases, {file.name: sha256_of(file)})


def test_no_loader_is_left_out():
    """Whatever says in its documentation that it takes a hub repository, or reads a public file, takes digests."""
    classes = [
        *(SyncNet.from_pretrained, OnsetV2A.from_pretrained, CausalVideoCodec.from_pretrained, MMAudioCodec),
        *(WanVideoCodec, pyramid_flow_text, umt5_text),
    ]
    found = []
    for module in (item for name, item in sys.modules.items() if name.startswith("components.")):
        for item in vars(module).values():
            if getattr(item, "__module__", None) == module.__name__ and "hub repository" in (item.__doc__ or ""):
                found.append(item)
    assert len(found) >= 15
    # what avsync export writes carries its digests; check_found reads nothing, the others no weights
    others = {"load_audio_layers", "check_found", "load_tokenizer", "FrontEnd"}
    takes = {
        item.__name__: any("sha256" in argument for argument in inspect.signature(item).parameters)
        for item in [*classes, *found]
        if callable(item)
    }
    assert [name for name, is_taken in takes.items() if not is_taken and name not in others] == []


def test_shapes_need_no_digest(releases: Path):
    with torch.device("meta"):
        wan_tower(str(releases / "wan"), "transformer", sha256={"none": ZEROS})


def test_no_file_is_hashed_twice(releases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By check, opening and identity together; also a small one, and where nothing can be remembered on disk."""
    hashed: list[str] = []
    digest = hashlib.file_digest

    def counted(stream: Any, name: str) -> Any:
        hashed.append(Path(stream.name).name)
        return digest(stream, name)

    monkeypatch.setattr(identity, "_hashed", {})
    monkeypatch.setattr(identity.hashlib, "file_digest", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    folder = releases / "onsets"
    wanted = summed_files(folder)
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    monkeypatch.setattr(identity, "_SETTLED_NS", 0)
    for _ in range(2):
        assert identity_of(OnsetV2A.from_pretrained(folder, wanted)).sha256 == wanted["model.safetensors"]
    assert sorted(hashed) == ["config.json", "model.safetensors"]
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="has the SHA-256"):
        OnsetV2A.from_pretrained(folder, wanted)
