import json

import pytest
import torch

from components.errors import InputError
from components.metrics.syncnet.model import SyncNet, cepstrum_windows
from components.weights.identity import identity_of
from components.weights.pretrained import sha256_of

TINY = {"lip_channels": (4,) * 6, "audio_channels": (4,) * 6, "hidden_dim": 8, "embed_dim": 6, "image_size": 64}


def tiny(**kwargs):
    torch.manual_seed(0)
    return SyncNet(**{**TINY, **kwargs}).eval()


@torch.no_grad()
def test_a_whole_clip_equals_its_windows_one_by_one():
    net = tiny()
    frames = 255 * torch.rand(2, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1))
    whole = net.embed_lips(frames)
    assert whole.shape == (2, 5, 6)
    for window in range(5):
        alone = net.embed_lips(frames[:, :, window : window + 5])
        torch.testing.assert_close(whole[:, window], alone[:, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_window_is_moved_by_its_own_frames_and_cepstra_only():
    net = tiny()
    frames = 255 * torch.rand(1, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1))
    changed = frames.clone()
    changed[:, :, 6] = 0
    moved = (net.embed_lips(frames) - net.embed_lips(changed)).abs().amax(dim=-1)[0]
    assert moved[:2].max() == 0 and moved[2:].min() > 0

    cepstra = torch.randn(60, 13, generator=torch.Generator().manual_seed(2))
    windows = cepstrum_windows(cepstra, 9)
    assert windows.shape == (9, 1, 13, 20)
    assert torch.equal(windows[3, 0], cepstra[12:32].T)
    changed = cepstra.clone()
    changed[12] += 1
    moved = (net.embed_sound(windows) - net.embed_sound(cepstrum_windows(changed, 9))).abs().amax(dim=-1)
    assert (moved[:4] > 0).all() and moved[4:].max() == 0


@pytest.mark.parametrize("size", [64, 112, 224])
def test_any_picture_size_comes_down_to_one_place(size):
    net = tiny(image_size=size)
    assert net.embed_lips(torch.zeros(1, 3, 5, size, size)).shape == (1, 1, 6)


def test_gradients_reach_every_weight():
    net = tiny().train()
    generator = torch.Generator().manual_seed(1)
    lips = net.embed_lips(255 * torch.rand(2, 3, 9, 64, 64, generator=generator))
    sound = net.embed_sound(torch.randn(10, 1, 13, 20, generator=generator))
    (lips.flatten(0, 1) - sound).square().mean().backward()
    # batch norm takes the convolutions' biases out again: their gradient is rounding
    weights = [weight for name, weight in net.named_parameters() if weight.ndim > 1 or ".3." in name]
    assert all(weight.grad.abs().sum() > 0 for weight in weights)


def test_round_trip(tmp_path):
    net = tiny()
    net.save_pretrained(tmp_path / "small")
    loaded = SyncNet.from_pretrained(tmp_path / "small")
    assert not loaded.training
    assert loaded.config == net.config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in net.state_dict().items())
    assert identity_of(loaded).sha256 == sha256_of(tmp_path / "small" / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_public_file_is_loaded_as_it_is(tmp_path):
    """A plain dict of tensors at full size, written by ``torch.save``."""
    torch.manual_seed(0)
    net = SyncNet()
    torch.save(net.state_dict(), tmp_path / "syncnet_v2.model")
    loaded = SyncNet.from_pretrained(tmp_path / "syncnet_v2.model")
    assert torch.equal(loaded.netfclip[3].weight, net.netfclip[3].weight)

    state = net.state_dict()
    state["netfclip.3.weight"] = state["netfclip.3.weight"][:, :7].clone()
    torch.save(state, tmp_path / "other.model")
    with pytest.raises(InputError, match=r"netfclip.3.weight \(file \[1024, 7\], model \[1024, 512\]\)"):
        SyncNet.from_pretrained(tmp_path / "other.model")


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickles_with_code_are_refused(tmp_path, capsys):
    torch.save({"netcnnaud.0.weight": Trap()}, tmp_path / "trap.model")
    with pytest.raises(InputError, match=r"trap\.model"):
        SyncNet.from_pretrained(tmp_path / "trap.model")
    assert "code ran" not in capsys.readouterr().out


def test_bad_folders(tmp_path):
    tiny().save_pretrained(tmp_path / "small")
    config = tmp_path / "small" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "embed_dim": 7}))
    with pytest.raises(InputError, match=r"netfcaud.3.bias \(file \[6\], model \[7\]\)"):
        SyncNet.from_pretrained(tmp_path / "small")
    config.write_text('{"width": 3}')
    with pytest.raises(InputError, match=r"config.json is not the config of a SyncNet \(.*'width'"):
        SyncNet.from_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="was not found"):
        SyncNet.from_pretrained(tmp_path / "none")


def test_bad_arguments():
    with pytest.raises(InputError, match="lip_channels has 5 widths"):
        tiny(lip_channels=(4,) * 5)
    with pytest.raises(InputError, match="image_size is 40"):
        tiny(image_size=40)
