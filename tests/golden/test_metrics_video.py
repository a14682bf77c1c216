"""The Inception of FID and MUSIQ against the public implementations, with weights drawn by a recipe."""

import json

import pytest
import torch
from safetensors.torch import load_file

from components.metrics.video.inception import tensorflow_resized
from components.metrics.video.musiq import Musiq, MusiqShape
from tests.golden.test_metrics_syncnet import recipe_tensor

pytest.importorskip("torchvision")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, pattern in (("inception", "fid_inception_recipe*.json"), ("musiq", "musiq_recipe*.json")):
        if fixture in metafunc.fixturenames:
            files = sorted((metafunc.config.getoption("--golden-dir") / "metrics").glob(pattern))
            packs = [(load_file(file.with_suffix(".safetensors")), json.loads(file.read_text())) for file in files]
            metafunc.parametrize(fixture, packs, ids=[file.name for file in files])


def drawn(manifest, seed):
    return {key: recipe_tensor(key, shape, seed) for key, shape in manifest.items()}


def shapes(net):
    return {key: list(value.shape) for key, value in net.state_dict().items()}


def test_tensorflows_resizing(inception):
    data, golden = inception
    every = golden["resized_every"]
    found = tensorflow_resized(data["pictures"].float(), golden["size"])[..., ::every, ::every]
    torch.testing.assert_close(found, data["resized_corner"], atol=1e-3, rtol=0)  # of 255


@torch.no_grad()
def test_inception(inception):
    from components.metrics.video.inception_net import FidInception

    data, golden = inception
    net = FidInception()
    assert shapes(net) == golden["manifest"]
    net.load_state_dict(drawn(golden["manifest"], golden["recipe_seed"]))
    # torch-fidelity's scale: 128 levels either side of grey
    pictures = (tensorflow_resized(data["pictures"].float(), golden["size"]) - 128) / 128
    pooled = net.eval()(pictures)
    torch.testing.assert_close(pooled, data["pooled"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.logits(pooled), data["logits"], atol=1e-4, rtol=1e-4)


def test_musiq_has_the_public_keys(musiq):
    _, golden = musiq
    with torch.device("meta"):
        assert shapes(Musiq()) == golden["full_manifest"]


@torch.no_grad()
def test_musiq(musiq):
    data, golden = musiq
    distribution = {key: value for key, value in golden["manifest"].items() if not key.startswith("head.")}
    nets = {}
    for head, classes, manifest in (
        ("rating", 1, golden["manifest"]),
        ("distribution", 10, distribution | golden["distribution_head"]),
    ):
        nets[head] = Musiq(MusiqShape(**golden["widths"], classes=classes)).eval()
        nets[head].load_state_dict(drawn(manifest, golden["recipe_seed"]))
    for case in golden["cases"]:
        small = data[f"picture_{case['picture']}"].float() / 255
        large = small.repeat_interleave(golden["enlarged"], 1).repeat_interleave(golden["enlarged"], 2)
        found = nets[case["head"]](large[:, : case["height"], : case["width"]])
        assert found.item() == pytest.approx(case["score"], abs=1e-4)
