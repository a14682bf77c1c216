import pytest
import torch

from components.metrics.synchformer.audio_tower import AudioTower


def tower(depth=2):
    torch.manual_seed(0)
    return AudioTower(dim=8, depth=depth, num_heads=2).eval()


@torch.no_grad()
def test_weights_have_the_public_names_and_come_back():
    one, other = tower(), AudioTower(dim=8, depth=2, num_heads=2).eval()
    state = one.state_dict()
    assert "ast.encoder.layer.1.attention.attention.query.weight" in state
    assert "ast.encoder.layer.1.intermediate.dense.bias" in state and "ast.encoder.layer.1.output.dense.bias" in state
    assert not [key for key in state if "q_proj" in key or "fc1" in key or ".layers." in key]
    mels = torch.randn(3, 128, 66, generator=torch.Generator().manual_seed(1))
    assert (one(mels) - other(mels)).abs().max() > 1e-3
    given = dict(state)
    other.load_state_dict(given)
    assert given.keys() == state.keys()  # what was given is left as it is
    assert torch.equal(one(mels), other(mels))


def test_a_weight_that_does_not_belong_is_refused():
    state = tower().state_dict()
    with pytest.raises(RuntimeError, match=r"Unexpected key.*extra"):
        tower().load_state_dict({**state, "ast.encoder.layer.0.extra": torch.zeros(1)})
    state.pop("ast.encoder.layer.0.output.dense.weight")
    with pytest.raises(RuntimeError, match="Missing key"):
        tower().load_state_dict(state)


@torch.no_grad()
def test_tokens_stand_for_columns_of_time():
    """With no layers between, a token sees its own 16 mel frames: column k those from 10 k to 10 k + 15."""
    net = tower(depth=0)
    mels = torch.randn(1, 128, 66, generator=torch.Generator().manual_seed(1))
    changed = mels.clone()
    changed[:, :, 42:46] += 3.0
    moved = (net(mels) - net(changed)).abs().amax(dim=-1)[0]
    assert net(mels).shape == (1, 6, 8)
    assert [bool(change > 1e-4) for change in moved] == [False, False, False, True, True, False]
