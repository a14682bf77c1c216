"""LPIPS as a loss: a missing file is told, and with torchvision there it is torchmetrics' distance with gradients."""

import importlib.util
from pathlib import Path

import pytest
import torch

from components.errors import InputError
from components.objectives.perceptual import LPIPS


def test_a_missing_file_is_told_and_where_it_is_had():
    with pytest.raises(InputError, match=r"'nowhere\.pth' does not exist; download https://\S+/vgg16-397923af\.pth"):
        LPIPS("nowhere.pth")
    with pytest.raises(InputError, match=r"backbone is 'vgg19'; use one of vgg, alex, squeeze"):
        LPIPS("nowhere.pth", "vgg19")


def test_another_file_than_was_meant_is_refused(tmp_path: Path):
    (tmp_path / "vgg.pth").write_bytes(b"other")
    with pytest.raises(InputError, match=r"vgg\.pth' has the SHA-256 \w+, but sha256 asks for 0000"):
        LPIPS(str(tmp_path / "vgg.pth"), sha256="0" * 64)


def test_without_torchvision_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "vgg.pth").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install torchvision"):
        LPIPS(str(tmp_path / "vgg.pth"))


def test_distances_are_torchmetrics_and_have_gradients(tmp_path: Path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    backbone = models.squeezenet1_1(weights=None).state_dict()
    torch.save(backbone, tmp_path / "squeeze.pth")
    before = torch.hub.get_dir()
    loss = LPIPS(str(tmp_path / "squeeze.pth"), "squeeze")
    assert torch.hub.get_dir() == before
    real = torch.rand(3, 3, 32, 32) * 2 - 1
    decoded = (torch.rand(3, 3, 32, 32) * 2 - 1).requires_grad_()
    distances = loss(decoded, real)
    assert distances.shape == (3,) and (distances > 0).all() and not loss(real, real).any()
    distances.sum().backward()
    assert decoded.grad is not None and decoded.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in loss.parameters())
    with pytest.raises(InputError, match=r"does not fit the backbone 'alex' .*; give torchvision's alexnet"):
        LPIPS(str(tmp_path / "squeeze.pth"), "alex")
