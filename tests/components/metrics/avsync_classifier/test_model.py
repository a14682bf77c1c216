import shutil

import pytest
import torch

from components.errors import InputError
from components.metrics.avsync_classifier.model import AVSyncClassifier
from components.weights.identity import identity_of
from components.weights.pretrained import sha256_of
from tests.components.metrics.avsync_classifier.small_classifier import small_classifier
from tests.public_folders.avsync_classifier import write_avsync_classifier

WEIGHTS = "diffusion_pytorch_model.bin"


def given(num=2, side=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(num, 1, 128, 204, generator=generator),
        torch.randn(num, 3, 12, side, side, generator=generator),
    )


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "modules"
    return write_avsync_classifier(folder), folder


@torch.no_grad()
def test_one_score_a_clip_that_both_picture_and_sound_move():
    net, (mel, frames) = small_classifier(), given()
    scores = net(mel, frames)
    assert scores.shape == (2,)
    torch.testing.assert_close(scores[1:], net(mel[1:], frames[1:]), atol=1e-6, rtol=1e-5)
    assert net(mel.flip(0), frames)[0] != scores[0] != net(mel, frames.flip(0))[0]
    # both are seen as they happen
    assert not torch.allclose(net(mel, frames.flip(2)), scores, atol=1e-4)
    assert not torch.allclose(net(mel.flip(3), frames), scores, atol=1e-4)


def test_gradients_reach_every_weight():
    net, (mel, frames) = small_classifier().train(), given()
    net(mel, frames).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())
    assert all(weight.grad.abs().sum() > 0 for name, weight in net.named_parameters() if "conv" in name)


@torch.no_grad()
def test_the_public_folder_is_loaded_as_it_is(public):
    written, folder = public
    loaded = AVSyncClassifier.from_pretrained(folder)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in written.state_dict().items())
    digest = identity_of(loaded).sha256
    assert len(digest) == 64 and digest == identity_of(AVSyncClassifier.from_pretrained(folder)).sha256


def test_digests_are_compared(public):
    _, folder = public
    name = f"head/{WEIGHTS}"
    AVSyncClassifier.from_pretrained(folder, sha256={name: sha256_of(folder / name)})
    with pytest.raises(InputError, match=rf"{name}' has the SHA-256"):
        AVSyncClassifier.from_pretrained(folder, sha256={name: "0" * 64})


def test_bad_folders(public, tmp_path):
    with pytest.raises(InputError, match="was not found"):
        AVSyncClassifier.from_pretrained(tmp_path / "none")
    _, folder = public
    (tmp_path / "part").mkdir()
    shutil.copytree(folder / "head", tmp_path / "part" / "head")
    with pytest.raises(InputError, match="has no folder audio_encoder and no video_encoder; unpack checkpoint-40000"):
        AVSyncClassifier.from_pretrained(tmp_path / "part")
    for part in ("audio_encoder", "video_encoder"):
        (tmp_path / "part" / part).symlink_to(folder / part)
    state = torch.load(folder / "head" / WEIGHTS)
    torch.save({name: value for name, value in state.items() if name != "fc.6.bias"}, tmp_path / "part/head" / WEIGHTS)
    with pytest.raises(InputError, match=r"does not fit this Head: 1 missing: fc.6.bias"):
        AVSyncClassifier.from_pretrained(tmp_path / "part")


def test_shapes_need_no_file():
    with torch.device("meta"):
        net = AVSyncClassifier.from_pretrained("nowhere")
    assert sum(weight.numel() for weight in net.parameters()) == 4_725_696 + 15_379_136 + 656_385


def test_bad_arguments():
    with pytest.raises(InputError, match="widths has 3 numbers"):
        AVSyncClassifier((4, 4, 4))
