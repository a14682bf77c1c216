"""Judges of sound and speech against numbers of the public classes, with widths reduced and weights by recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.metrics.distributions.classes import class_divergence
from components.metrics.sound.aesthetics import WINDOW_SAMPLES
from components.metrics.sound.aesthetics_net import AXES, RENAMES, AestheticsNet
from components.metrics.sound.panns import Cnn14
from components.metrics.sound.vggish import Vggish, VggishNet
from components.metrics.speech.voice_encoder import VoiceEncoder
from components.weights.file import Weights
from components.weights.fit import Renames, copy_weights
from tests.golden.packs import parametrized
from tests.golden.recipe_weights import recipe_tensor

SOURCES = {
    "panns_case": ("panns_narrow*.json", "cases"),
    "vggish_pack": ("vggish_narrow*.json", None),
    "aesthetics_pack": ("audiobox_tiny*.json", None),
    "voice_pack": ("voice_encoder_tiny*.json", None),
    "divergence_pack": ("distribution_metrics*.json", None),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, SOURCES, lambda tensors, pack, index, case: (index, load_file(tensors), pack, case))


def load_recipe(net: nn.Module, case: dict[str, Any], renames: Renames = (), scale: float = 1) -> None:
    """Gives a net the weights of the recipe by the public names; what the manifest lacks stays as it was built."""
    drawn = {key: recipe_tensor(key, tuple(shape), case["recipe_seed"]) for key, shape in case["manifest"].items()}
    kept = {} if renames else {key: value for key, value in net.state_dict().items() if key not in drawn}
    copy_weights(net, Weights({key: scale * value for key, value in drawn.items()} | kept, (), Path("recipe")), renames)
    net.eval()


def sound(tensors: dict[str, Tensor], name: str) -> Tensor:
    return tensors[name].float() / 32768


@torch.no_grad()
def test_panns(panns_case):
    index, tensors, pack, case = panns_case
    net = Cnn14(case["window"], width=2, num_classes=len(tensors[f"logits_{index}"]))
    assert net.sample_rate == case["sample_rate"]
    load_recipe(net, case)
    wave = sound(tensors, case["wave"])[None]
    log_mel = net.log_mel(wave)[0, :: pack["log_mel_every"]]
    torch.testing.assert_close(log_mel, tensors[f"log_mel_{index}"], atol=2e-3, rtol=0)
    embedding, logits = net(wave)
    torch.testing.assert_close(embedding[0], tensors[f"embedding_{index}"], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(logits[0], tensors[f"logits_{index}"], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_vggish(vggish_pack, tmp_path: Path):
    _, tensors, pack, case = vggish_pack
    shapes = case["manifest"]
    convs = tuple(shapes[f"features.{place}.weight"][0] for place in (0, 3, 6, 8, 11, 13))
    dim, hidden = shapes["embeddings.4.weight"]
    net = VggishNet(convs, hidden, dim)
    load_recipe(net, case)
    torch.save(net.state_dict(), tmp_path / "vggish.pth")
    vggish = Vggish(str(tmp_path / "vggish.pth"))
    examples = vggish.examples(sound(tensors, "wave"))
    torch.testing.assert_close(examples[:, :: pack["example_every"]], tensors["examples"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vggish.embed(sound(tensors, "wave")), tensors["features"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_aesthetics(aesthetics_pack):
    _, tensors, pack, _ = aesthetics_pack
    scale = pack["target_transform"]
    for case in pack["cases"]:
        net = AestheticsNet(**case["settings"], wavlm=pack["wavlm"])
        load_recipe(net, case, RENAMES)
        for number, wanted in enumerate(case["scores"]):
            parts = sound(tensors, f"wave_{number}").split(WINDOW_SAMPLES)
            windows = torch.stack([nn.functional.pad(part, (0, WINDOW_SAMPLES - len(part))) for part in parts])
            lengths = torch.tensor([len(part) for part in parts])
            raw = (net(windows, lengths) * lengths[:, None]).sum(0) / lengths.sum()
            for axis, value in zip(AXES, raw.tolist(), strict=True):
                assert value * scale[axis]["std"] + scale[axis]["mean"] == pytest.approx(wanted[axis], abs=2e-4)


@torch.no_grad()
def test_voices(voice_pack):
    _, tensors, pack, case = voice_pack
    encoder = VoiceEncoder(*reversed(case["manifest"]["linear.weight"]))
    load_recipe(encoder, case, scale=case["scale"])
    for number in range(pack["cases"]):
        embedding = encoder(sound(tensors, f"wave_{number}"))
        torch.testing.assert_close(embedding, tensors[f"embedding_{number}"], atol=2e-5, rtol=0)


def test_divergence(divergence_pack):
    _, tensors, pack, _ = divergence_pack
    kl = class_divergence(tensors["logits_gt"], tensors["logits_gen"]).mean()
    assert float(kl) == pytest.approx(pack["kl_softmax_gt_to_gen"], abs=1e-4)
