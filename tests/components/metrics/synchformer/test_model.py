import pickle
from dataclasses import dataclass

import pytest
import torch

from components.errors import InputError
from components.metrics.synchformer.model import PUBLIC_SOURCE, Synchformer
from components.weights.identity import identity_of
from components.weights.pretrained import sha256_of

TINY = {"dim": 8, "depth": 1, "num_heads": 2, "head_depth": 1, "head_num_heads": 2}


@dataclass
class Settings:
    """What a training run's settings are to those who lack its libraries."""

    rate: float


def tiny(seed=0):
    torch.manual_seed(seed)
    return Synchformer(**TINY).eval()


@torch.no_grad()
def logits_of(net):
    draw = torch.Generator().manual_seed(1)
    return net.offset_logits(torch.randn(2, 14, 8, 8, generator=draw), torch.randn(2, 14, 6, 8, generator=draw))


def test_a_saved_network_comes_back(tmp_path):
    net = tiny()
    net.save_pretrained(tmp_path / "net")
    again = Synchformer.from_pretrained(tmp_path / "net")
    assert not again.training
    assert torch.equal(logits_of(again), logits_of(net))
    assert identity_of(again).sha256 == sha256_of(tmp_path / "net/model.safetensors")


def test_a_training_checkpoint_at_full_size(tmp_path):
    """As Synchformer's own code writes it: the weights under ``model``, with objects of classes beside them."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Synchformer().state_dict().items()}
    # one number each: the file is small
    weights = {key: torch.full((1,), 0.01).expand(shape) for key, shape in shapes.items()}
    file = tmp_path / "24-01-04T16-39-21.pt"
    torch.save({"args": Settings(1e-4), "epoch": 3, "model": weights}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    net = Synchformer.from_pretrained(file, sha256=sha256_of(file))
    assert all(weight.flatten()[0] == 0.01 and not weight.is_meta for weight in net.parameters())
    assert identity_of(net).sha256 == sha256_of(file)


def test_another_file_than_the_digest_asks_for_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path / "net")
    with pytest.raises(InputError, match="but sha256 asks for"):
        Synchformer.from_pretrained(tmp_path / "net", sha256={"model.safetensors": "0" * 64})


def test_missing_weights_are_asked_for_with_their_source(tmp_path):
    with pytest.raises(InputError) as error:
        Synchformer.from_pretrained(tmp_path / "synchformer_state_dict.pth")
    for piece in (
        "synchformer_state_dict.pth' do not exist",
        PUBLIC_SOURCE,
        "licence MIT",
        "5b2f5594b0730f70e41e549b7c",
    ):
        assert piece in str(error.value)


def test_weights_of_another_model_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save({key: value for key, value in tiny().state_dict().items() if "off_head" not in key}, file)
    with pytest.raises(InputError, match=r"other\.pth' does not fit this Synchformer: \d+ missing: .*of another shape"):
        Synchformer.from_pretrained(file)


def test_a_config_of_another_class_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path / "net")
    (tmp_path / "net/SHA256SUMS").unlink()
    (tmp_path / "net/config.json").write_text('{"lips": 3}')
    with pytest.raises(InputError, match=r"net/config\.json is not the config of a Synchformer"):
        Synchformer.from_pretrained(tmp_path / "net")


def test_shapes_alone_need_no_file():
    with torch.device("meta"):
        net = Synchformer.from_pretrained("weights/synchformer_state_dict.pth")
    assert sum(weight.numel() for weight in net.parameters()) == 237_460_245
    assert all(weight.is_meta for weight in net.parameters())


@pytest.mark.parametrize("name", ["num_heads", "head_num_heads"])
def test_heads_must_divide_the_width(name):
    with pytest.raises(InputError, match=rf"Synchformer\.{name} is 3; it must divide dim, which is 8"):
        Synchformer(**{**TINY, name: 3})
