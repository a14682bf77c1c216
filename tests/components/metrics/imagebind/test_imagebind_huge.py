import importlib
import sys

import pytest
import torch

from components.errors import InputError
from components.metrics.imagebind.embedding import mean_sound, mean_video, unit_pictures, unit_text
from components.metrics.imagebind.imagebind_huge import ImageBindHuge
from components.metrics.imagebind.mel import imagebind_mel
from components.metrics.imagebind.pictures import clip_normalised
from components.weights.identity import sha256_of
from tests.public_folders.imagebind import write_imagebind_package, write_imagebind_weights


@pytest.fixture
def forgotten(monkeypatch):
    """Whatever of the package is imported is forgotten afterwards."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "imagebind":
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def package(tmp_path, monkeypatch, forgotten):
    write_imagebind_package(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site" / "imagebind"


@pytest.fixture
def weights(package, tmp_path):
    """The public model and its file."""
    torch.manual_seed(0)
    sys.modules["imagebind"] = type(sys)("imagebind")
    sys.modules["imagebind"].__path__ = [str(package)]
    model = importlib.import_module("imagebind.models.imagebind_model").imagebind_huge()
    del sys.modules["imagebind"]
    file = tmp_path / "imagebind_huge.pth"
    write_imagebind_weights(file, model)
    return model, file


@torch.no_grad()
def test_everything_is_handed_over_as_the_public_program_does(weights):
    public, file = weights
    model = ImageBindHuge(str(file))
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(3, 3, 224, 224, generator=generator)
    torch.testing.assert_close(
        unit_pictures(model, frames, 2), public({"vision": clip_normalised(frames)})["vision"], atol=1e-6, rtol=0
    )
    pairs = torch.rand(4, 2, 3, 224, 224, generator=generator)
    expected = public({"vision": clip_normalised(pairs).transpose(1, 2)[None]})["vision"][0]
    torch.testing.assert_close(mean_video(model, pairs, 3), expected, atol=1e-6, rtol=0)
    sounds = torch.rand(3, 32_000, generator=generator) - 0.5
    expected = public({"audio": imagebind_mel(sounds)[None, :, None]})["audio"][0] / 20
    torch.testing.assert_close(mean_sound(model, list(sounds)), expected, atol=1e-6, rtol=0)
    text = unit_text(model, "a dog barks")
    assert text.norm().item() == pytest.approx(1, abs=1e-6)
    assert not torch.allclose(text, unit_text(model, "a cat"), atol=1e-3)


def test_weights_are_frozen_and_named(weights):
    _, file = weights
    model = ImageBindHuge(str(file), sha256=sha256_of(file))
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert model.identity() == {"model": "ImageBind-huge", "weights": str(file), "sha256": sha256_of(file)}
    with pytest.raises(InputError, match="has the SHA-256"):
        ImageBindHuge(str(file), sha256="0" * 64)


def test_the_package_s_own_start_is_left_to_its_owner(weights):
    ImageBindHuge(str(weights[1]))
    assert "imagebind" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match="pytorchvideo_that_nobody_has"):
        importlib.import_module("imagebind")


def test_what_is_missing_is_said_with_where_it_comes_from(weights, package, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"none.pth' does not exist: download .* CC-BY-NC 4.0.*https://dl.fbaipublic"):
        ImageBindHuge(str(tmp_path / "none.pth"))
    torch.save({"heads.text.weight": torch.zeros(5, 77)}, tmp_path / "part.pth")
    with pytest.raises(InputError, match=r"missing: heads.audio.bias"):
        ImageBindHuge(str(tmp_path / "part.pth"))


def test_a_package_that_lacks_something(package, tmp_path):
    (package / "models" / "multimodal_preprocessors.py").write_text("import iopath_that_nobody_has\n")
    with pytest.raises(InputError, match=r"iopath_that_nobody_has.*pip install --no-deps git"):
        ImageBindHuge(str(tmp_path / "any.pth"))
    assert "imagebind" not in sys.modules


def test_without_the_package():
    with pytest.raises(InputError, match="which is not installed: 'pip install --no-deps git"):
        ImageBindHuge("any.pth")


def test_shapes_need_neither():
    with torch.device("meta"):
        assert not list(ImageBindHuge("any.pth").parameters())
