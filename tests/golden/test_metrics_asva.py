"""ASVA's classifier, clips and scores, ImageBind's log-mels and JavisBench's scores against the golden numbers."""

import statistics

import pytest
import torch
from safetensors.torch import load_file

from components.metrics import asva_clips
from components.metrics.asva_clips import clip_starts, trimmed
from components.metrics.avsync_classifier.model import PARTS, AVSyncClassifier
from components.metrics.avsync_classifier.sync import alignsync, relsync
from components.metrics.imagebind.javis import JavisWindows, avh_score, javis_score
from components.metrics.imagebind.mel import CLIP_S, NUM_BINS, NUM_FRAMES, SAMPLE_RATE, imagebind_mel
from components.metrics.imagebind.pictures import clip_normalised
from tests.golden.packs import parametrized
from tests.golden.recipe_weights import recipe_tensor

SOURCES = {
    "sync_maths": ("asva_sync_maths*.json", None),
    "recipe": ("asva_classifier_recipe*.json", None),
    "geometry": ("asva_frame_geometry*.json", "cases"),
    "starts": ("asva_clip_starts*.json", "cases"),
    "mel": ("imagebind_mel*.json", "cases"),
    "javis": ("javis_score*.json", "cases"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, SOURCES, lambda tensors, pack, index, case: (tensors, pack, case))


def test_sync_maths(sync_maths):
    file, pack, _ = sync_maths
    data = load_file(file)
    relative = relsync(data["score_generated"], data["score_groundtruth"])
    aligned = alignsync(relative, data["ia_generated"], data["ia_groundtruth_first"])
    torch.testing.assert_close(relative, data["relsync"], atol=1e-6, rtol=0)
    torch.testing.assert_close(aligned, data["alignsync"], atol=1e-6, rtol=0)
    for name, found in (("RelSync", relative), ("AlignSync", aligned)):
        assert found.mean().item() == pytest.approx(pack[f"{name}_mean"], abs=1e-6)
        assert statistics.stdev(found.tolist()) == pytest.approx(pack[f"{name}_std_unbiased"], abs=1e-6)
    same = relsync(data["score_generated"], data["score_generated"])
    likeness = data["ia_groundtruth_first"][:, None].expand_as(data["ia_generated"])
    real = alignsync(same, likeness, data["ia_groundtruth_first"])
    expected = pack["identical_scores_give"]
    torch.testing.assert_close(same, torch.full_like(same, expected["relsync"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(real, torch.full_like(real, expected["alignsync"]), atol=1e-6, rtol=0)


@torch.no_grad()
def test_classifier(recipe):
    file, _, case = recipe
    data = load_file(file)
    with torch.device("meta"):
        net = AVSyncClassifier()
    for part in PARTS:
        module = net.get_submodule(part)
        found = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
        assert found == case["manifest"][part]
        assert sum(weight.numel() for weight in module.parameters()) == case["params"][part]
        weights = {
            key: recipe_tensor(f"{part}.{key}", shape, case["recipe_seed"]) * case.get("scales", {}).get(key, 1)
            for key, shape in case["manifest"][part].items()
        }
        module.load_state_dict(weights, assign=True)
    net.eval()
    frames = data["frames_7"].permute(0, 1, 4, 2, 3).float() / 255
    for side in (3, 4):
        frames = frames.repeat_interleave(case["upsample"], side)
    frames = clip_normalised(frames).transpose(1, 2)
    mel = data["mel"].float()
    torch.testing.assert_close(net.audio_encoder(mel), data["audio_embedding"], atol=2e-4, rtol=0)
    torch.testing.assert_close(net.video_encoder(frames), data["video_embedding"], atol=2e-4, rtol=0)
    torch.testing.assert_close(net(mel, frames), data["score"], atol=2e-4, rtol=0)


def test_frame_geometry(geometry):
    file, _, case = geometry
    data = load_file(file)
    pictures = data[f"in_{case['case']}"]
    assert list(pictures.shape[-2:]) == case["in_hw"]
    found = trimmed(pictures.float() / 255, case["size"])
    assert list(found.shape[-2:]) == case["out_hw"]
    torch.testing.assert_close(found, data[f"out_{case['case']}"], atol=2e-6, rtol=0)


def test_clip_starts(starts):
    _, pack, case = starts
    assert pack["clip_seconds"] == asva_clips.CLIP_S
    assert clip_starts(case["duration"], case["num_clips"]) == pytest.approx(case["starts"], abs=1e-9)


def test_mel(mel):
    file, pack, case = mel
    assert (pack["clip_seconds"], pack["frames"], pack["mel_bins"], pack["sample_rate"]) == (
        CLIP_S,
        NUM_FRAMES,
        NUM_BINS,
        SAMPLE_RATE,
    )
    data = load_file(file)
    wave = data[case["wave"]]
    assert len(wave) == case["samples"]
    torch.testing.assert_close(imagebind_mel(wave[None].float() / 32768)[0], data[case["mel"]], atol=1e-4, rtol=0)


def test_javis(javis):
    file, pack, case = javis
    data, number = load_file(file), case["case"]
    windows = JavisWindows(pack["window_seconds"], pack["overlap_seconds"]).of(
        case["num_frames"], case["num_samples"], case["fps"]
    )
    assert [list(window.frames) for window in windows] == case["windows"]
    frames = data[f"frames_{number}"]
    assert avh_score(frames, data[f"audio_{number}"][0]) == pytest.approx(case["avh_score"], abs=1e-5)
    found = javis_score(frames, data[f"audio_windows_{number}"], windows, pack["topk_min_fraction"])
    assert found == pytest.approx(case["javis_score"], abs=1e-5)
