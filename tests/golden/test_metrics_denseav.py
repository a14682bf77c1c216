"""DenseAV's audio branch against the golden features, through checkpoints in the public layouts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.encoders.audio.denseav import DenseAVEncoder
from tests.public_folders.denseav import new_spelling, recipe_weights, write_hub_folder, write_lightning_checkpoint

ATOL = 2e-4


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden-dir") / "metrics"
        found = []
        for file in sorted(folder.glob("denseav_audio*.json")):
            pack = json.loads(file.read_text())
            for case in pack["cases"]:
                found.append(pytest.param((file, pack, case), id=f"{file.stem}-{case['aligner']}"))
        metafunc.parametrize("golden", found)


@pytest.fixture
def checkpoint(golden, layout: str, tmp_path: Path) -> str:
    _, pack, case = golden
    weights = recipe_weights({key: tuple(shape) for key, shape in case["manifest"].items()}, pack["recipe_seed"])
    weights = {key: tensor * case.get("scales", {}).get(key, 1) for key, tensor in weights.items()}
    arguments = {
        "code_dim": case["code_dim"],
        "audio_model_type": "hubert",
        "audio_aligner_type": case["aligner"],
        "learn_audio_cls": case["learn_audio_cls"],
    }
    hubert = pack["hubert_config"]
    if layout == "ckpt":
        return str(write_lightning_checkpoint(tmp_path / "denseav_sound.ckpt", weights, arguments, hubert))
    return str(write_hub_folder(tmp_path, {new_spelling(k): v for k, v in weights.items()}, arguments, hubert))


@pytest.mark.parametrize("layout", ["hub", "ckpt"])
@pytest.mark.parametrize("source", ["norm", "raw"])
def test_features(golden, checkpoint: str, source: str):
    file, _, case = golden
    expected = load_file(file.with_suffix(".safetensors"))
    prefix = f"{case['aligner']}.{source}."
    wave = expected["wave_float"][None]
    backbone = DenseAVEncoder(checkpoint, "backbone", normalize=source == "norm")(wave, 16000)
    torch.testing.assert_close(backbone.tokens[0], expected[prefix + "hubert"], atol=ATOL, rtol=0)
    assert backbone.tokens.shape[1] == case["hubert_frames"]

    encoder = DenseAVEncoder(checkpoint, "aligned", normalize=source == "norm")
    aligned = encoder(wave, 16000)
    torch.testing.assert_close(aligned.tokens[0].T[:, None], expected[prefix + "audio_feats"], atol=ATOL, rtol=0)
    torch.testing.assert_close(aligned.mask[0].float(), expected[prefix + "audio_mask"])
    assert aligned.tokens.shape[1:] == (case["aligned_frames"], case["code_dim"])
    assert encoder.dim == case["code_dim"]
    _, cls = encoder.align(backbone.tokens)
    if case["learn_audio_cls"]:
        torch.testing.assert_close(cls[0], expected[prefix + "audio_cls"], atol=ATOL, rtol=0)
    else:
        assert cls is None and prefix + "audio_cls" not in expected


def test_normalisation(golden):
    from components.encoders.audio.frozen import zero_mean_unit_variance

    expected = load_file(golden[0].with_suffix(".safetensors"))
    torch.testing.assert_close(
        zero_mean_unit_variance(expected["wave_float"][None])[0], expected["wave_normalised"], atol=1e-5, rtol=0
    )
