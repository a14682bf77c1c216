"""Synchformer and DeSync against the golden front end, networks, windows and scores."""

import json

import pytest
import torch
from safetensors.torch import load_file

from components.contracts import ClipBatch
from components.metrics.scorers import real_clips
from components.metrics.synchformer.desync import desync_s, offset_grid, offsets_s
from components.metrics.synchformer.input import mel_segments
from components.metrics.synchformer.model import Synchformer
from components.metrics.synchformer.scorer import DeSync
from tests.golden.packs import parametrized
from tests.golden.recipe_weights import recipe_tensor

SOURCES = {
    "front_end": ("synchformer_audio_frontend*.json", None),
    "tiny": ("synchformer_tiny*.json", None),
    "clip": ("desync_clips*.json", "cases"),
    "scores": ("desync_logits*.json", None),
    "manifest": ("synchformer_full_manifest*.json", None),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, SOURCES, lambda tensors, pack, index, case: (tensors, case))


def network(case):
    """The tiny network of ``synchformer_tiny.json``."""
    net = Synchformer(case["dim"], case["depth"], case["heads"], case["global_depth"], case["heads"])
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == case["manifest"]
    state = {key: recipe_tensor(key, shape, case["recipe_seed"]) for key, shape in case["manifest"].items()}
    for key, scale in case["scales"].items():
        state[key] *= scale
    net.load_state_dict(state)
    return net.eval()


def clip_of(data, factor, prefix=""):
    """A batch of one golden clip, its pictures enlarged by repeating pixels."""
    frames = data[f"{prefix}video_14"].permute(0, 3, 1, 2)[None]
    video = frames.repeat_interleave(factor, 3).repeat_interleave(factor, 4)
    audio = data[f"{prefix}wave"][None] / 32768
    return ClipBatch(["clip"], video, 25.0, audio, 16_000, [""], ["recording"])


def test_audio_front_end(front_end):
    file, case = front_end
    data = load_file(file)
    found = mel_segments(data["wave"] / 32768, case["num_segments"])
    assert found.shape[-1] == case["frames"]
    torch.testing.assert_close(found, data["segments"], atol=1e-4, rtol=0)


def test_tiny_network(tiny):
    file, case = tiny
    data = load_file(file)
    scorer = DeSync(network(case), segments_at_once=5)
    clip = real_clips(clip_of(data, case["upsample"]))
    video, sound = scorer.segments(clip.video[0], clip.fps, clip.audio[0], clip.sample_rate)
    assert len(video) == case["num_segments"]
    torch.testing.assert_close(video, data["video_features"], atol=2e-4, rtol=0)
    torch.testing.assert_close(sound, data["audio_features"], atol=2e-4, rtol=0)
    logits = scorer.logits(video, sound)
    torch.testing.assert_close(logits[0], data["logits.first14"], atol=2e-3, rtol=0)
    assert logits[0].argmax() == case["argmax"]["first14"]
    (whole,) = scorer.score(clip, [0])
    assert whole == scorer.compare(video, sound)


def test_clips(clip):
    file, case = clip
    model_file = file.with_name(file.name.replace("desync_clips", "synchformer_tiny")).with_suffix(".json")
    model = json.loads(model_file.read_text())
    data, prefix = load_file(file), f"case{case['case']}."
    generation = real_clips(clip_of(data, model["upsample"], prefix))
    assert generation.video.shape[1] == case["num_frames"]
    net = network(model)
    video, sound = DeSync(net).segments(generation.video[0], 25.0, generation.audio[0], 16_000)
    assert len(video) == case["num_segments"]
    for rule in ("javisbench", "av_benchmark"):
        logits = DeSync(net, rule).logits(video, sound)
        if case[rule] is None:
            assert not len(logits)
            continue
        torch.testing.assert_close(logits, data[f"{prefix}{rule}_logits"], atol=2e-3, rtol=0)
        assert logits.argmax(dim=-1).tolist() == case[f"{rule}_argmax"]
        assert desync_s(logits).mean().item() == pytest.approx(case[rule], abs=1e-6)
    found = DeSync(net).compare(video, sound)
    assert found.values["desync"] == pytest.approx(case["javisbench"], abs=1e-6)
    assert found.values["desync_looped"] == (case["num_segments"] < 14)


def test_scores_of_logits(scores):
    """Clips of several windows; classes that tie go to the first."""
    file, case = scores
    data = load_file(file)
    logits = data["logits"]
    torch.testing.assert_close(offset_grid(), data["grid"], atol=1e-6, rtol=0)
    assert logits.argmax(dim=-1).equal(data["argmax"])
    distances, expected = desync_s(logits).mean(dim=1), desync_s(logits, "expected").mean(dim=1)
    torch.testing.assert_close(distances, data["per_clip_argmax_abs"], atol=1e-6, rtol=0)
    torch.testing.assert_close(expected, data["per_clip_expected_abs"], atol=1e-6, rtol=0)
    signed = offsets_s(logits, "expected")
    torch.testing.assert_close(signed.mean(dim=1), data["per_clip_expected_signed"], atol=1e-6, rtol=0)
    torch.testing.assert_close(signed.abs().mean(dim=1), data["per_clip_abs_of_expected"], atol=1e-6, rtol=0)
    assert distances.mean().item() == pytest.approx(case["desync_mean_argmax"], abs=1e-6)
    assert expected.mean().item() == pytest.approx(case["desync_mean_expected_abs"], abs=1e-6)


def test_full_size_keys(manifest):
    _, case = manifest
    with torch.device("meta"):
        net = Synchformer()
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == case["manifest"]
    assert sum(weight.numel() for weight in net.parameters()) == case["num_params"]
