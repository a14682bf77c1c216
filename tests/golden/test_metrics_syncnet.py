"""SyncNet against the golden cepstra, networks, offsets and face tracks."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from components.metrics.syncnet.input import network_pictures
from components.metrics.syncnet.mfcc import mfcc
from components.metrics.syncnet.model import SyncNet, cepstrum_windows
from components.metrics.syncnet.offsets import sync_offset
from components.metrics.syncnet.scorer import SyncNetScorer
from components.metrics.syncnet.tracking import FaceTracker
from tests.golden.packs import parametrized
from tests.golden.recipe_weights import recipe_tensor

SOURCES = {
    "mfcc_case": ("syncnet_mfcc*.json", "cases"),
    "post_case": ("syncnet_post*.json", "cases"),
    "tiny": ("syncnet_tiny*.json", None),
    "recipe": ("syncnet_full_recipe*.json", None),
    "tracking": ("syncnet_tracking*.json", None),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, SOURCES, lambda tensors, pack, index, case: (tensors, case))


def enlarged(frames, factor):
    """uint8 ``[T, h, w, 3]`` to float ``[T, 3, H, W]`` in 0..255 by repeating pixels."""
    frames = frames.permute(0, 3, 1, 2).float()
    return frames.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def test_mfcc(mfcc_case):
    file, case = mfcc_case
    data = load_file(file)
    found = mfcc(data[case["wave"]][None])[0]
    assert found.shape == (case["num_frames"], 13)
    torch.testing.assert_close(found, data[case["mfcc"]], atol=1e-8, rtol=0)


def test_post(post_case):
    file, case = post_case
    data = load_file(file)
    prefix = f"case{case['case']}."
    found = sync_offset(data[prefix + "video"], data[prefix + "audio"], case["vshift"])
    assert found.offset == case["offset"]
    assert found.confidence == pytest.approx(case["confidence"], abs=2e-5)
    assert found.min_distance == pytest.approx(case["min_dist"], abs=2e-5)
    torch.testing.assert_close(found.mean_distances, data[prefix + "mean_dists"], atol=2e-5, rtol=0)
    framewise = data[prefix + "framewise_conf_medfilt9"]
    torch.testing.assert_close(found.framewise_confidence(), framewise, atol=2e-5, rtol=0)


@pytest.fixture
def tiny_net(tiny):
    file, case = tiny
    weights = load_file(file)
    widths = case["widths"]
    net = SyncNet(widths["lip"], widths["audio"], widths["fc"], widths["emb"])
    net.load_state_dict({k.removeprefix("weights."): v for k, v in weights.items() if k.startswith("weights.")})
    return net.eval()


@torch.no_grad()
def test_tiny_embeddings_and_distances(tiny, tiny_net):
    file, case = tiny
    data = load_file(file)
    pictures = enlarged(data["frames_28"], case["upsample"]).transpose(0, 1)[None]
    num_windows = case["num_windows"]
    lips = tiny_net.embed_lips(pictures)[0, :num_windows]
    torch.testing.assert_close(lips, data["video_embeddings"], atol=2e-4, rtol=0)
    features = tiny_net.lip_features(pictures[:, :, :5])[0]
    torch.testing.assert_close(features, data["lipfeat_window0"], atol=2e-4, rtol=0)
    cepstra = mfcc(data["wave"][None])[0].float()
    sound = tiny_net.embed_sound(cepstrum_windows(cepstra, num_windows))
    torch.testing.assert_close(sound, data["audio_embeddings"], atol=2e-4, rtol=0)
    found = sync_offset(lips, sound)
    torch.testing.assert_close(found.distances, data["dists"], atol=2e-4, rtol=0)
    torch.testing.assert_close(found.mean_distances, data["mean_dists"], atol=2e-4, rtol=0)
    framewise = data["framewise_conf_medfilt9"]
    torch.testing.assert_close(found.framewise_confidence(), framewise, atol=2e-4, rtol=0)


def test_tiny_scores_of_the_whole_clip(tiny, tiny_net):
    """From pictures in [0, 1] and sound in [-1, 1], in chunks: the channels are stored as BGR."""
    file, case = tiny
    data = load_file(file)
    video = enlarged(data["frames_28"], case["upsample"]).flip(1)[None] / 255
    audio = data["wave"][None] / 32768
    for key in (name for name in case if name.startswith("vshift")):
        scorer = SyncNetScorer(
            tiny_net, max_shift=int(key.removeprefix("vshift")), min_duration_s=1.0, windows_at_once=7
        )
        found = {name: value.item() for name, value in scorer(video, 25.0, audio, 16_000).items()}
        assert round(found["offset_s"] * 25) == case[key]["offset"]
        assert found["sync_c"] == pytest.approx(case[key]["confidence"], abs=1e-3)
        assert found["sync_d"] == pytest.approx(case[key]["min_dist"], abs=1e-3)


@torch.no_grad()
def test_full_size_network(recipe):
    file, case = recipe
    tiny_file = file.with_name(file.name.replace("full_recipe", "tiny"))
    expected, clip = load_file(file), load_file(tiny_file)
    factor = json.loads(tiny_file.with_suffix(".json").read_text())["upsample"]
    with torch.device("meta"):
        net = SyncNet()
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == case["manifest"]
    assert sum(weight.numel() for weight in net.parameters()) == case["num_params"]
    state = {key: recipe_tensor(key, shape, case["recipe_seed"]) for key, shape in case["manifest"].items()}
    for key, scale in case["scales"].items():
        state[key] *= scale
    for key, probe in case["weight_probe"].items():
        torch.testing.assert_close(state[key].flatten()[: len(probe)], torch.tensor(probe))
    net.load_state_dict(state, assign=True)
    net.eval()

    frames = enlarged(clip["frames_28"][: case["uses_first_frames"]], factor)
    num_windows = len(expected["video_embeddings"])
    lips = net.embed_lips(network_pictures(frames.flip(1) / 255, 224)[None])[0, :num_windows]
    torch.testing.assert_close(lips, expected["video_embeddings"], atol=1e-3, rtol=0)
    cepstra = mfcc(clip["wave"][None, : case["uses_first_samples"]])[0].float()
    sound = net.embed_sound(cepstrum_windows(cepstra, num_windows))
    torch.testing.assert_close(sound, expected["audio_embeddings"], atol=1e-3, rtol=0)
    torch.testing.assert_close(sync_offset(lips, sound).distances, expected["dists"], atol=1e-3, rtol=0)


def test_tracking(tracking):
    _, case = tracking
    given = case["params"]
    tracker = FaceTracker(
        min_track=given["min_track_exclusive"],
        min_face_size=given["min_face_size"],
        max_gap=given["num_failed_det"],
        min_overlap=given["iou_threshold_exclusive"],
        crop_scale=given["crop_scale"],
        smoothing=given["median_filter"],
    )
    tracks = tracker.tracks([[found["bbox"] for found in frame] for frame in case["detections"]])
    assert len(tracks) == len(case["tracks"])
    for track, golden in zip(tracks, case["tracks"], strict=True):
        assert track.first_frame == golden["first_frame"]
        assert track.first_frame + len(track.boxes) - 1 == golden["last_frame"]
        np.testing.assert_allclose(track.boxes, golden["bbox"], atol=1e-6)
        for found, axis in zip(tracker.smoothed(track), "xys", strict=True):
            np.testing.assert_allclose(found, golden["smoothed"][axis], atol=1e-6)
        crops = [
            {"pad": crop.padding, "x": [crop.left, crop.right], "y": [crop.top, crop.bottom]}
            for crop in tracker.crops(track)
        ]
        assert crops == golden["crops"]
