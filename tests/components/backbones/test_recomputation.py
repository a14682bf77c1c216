"""Every policy gives the same gradients and keeps what it says."""

from functools import partial

import pytest
import torch
from torch import nn

from components.backbones.recomputation import layer_policies, recomputed
from components.counting.saved_activations import saved_bytes
from components.errors import InputError
from tests.tiny_harmony import inputs, tiny_harmony
from tests.tiny_syncphony import (
    NUM_BLOCKS,
    VARIANTS,
    audio_features,
    column_sounds,
    latents,
    model_columns,
    text_features,
    tiny_dit,
    training_columns,
)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        q, k, v = self.project(x).chunk(3, dim=-1)
        return torch.nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].square()


def test_policies_of_layers():
    assert layer_policies(False, 3) == layer_policies("none", 3) == [False] * 3
    assert layer_policies(True, 3) == layer_policies("full", 3) == layer_policies(1, 3) == [True] * 3
    assert layer_policies("selective", 2) == ["selective"] * 2
    assert layer_policies(2, 5) == [False, True, False, True, False]
    for wrong in (0, -1, "some"):
        with pytest.raises(InputError, match=f"checkpoint_activations is {wrong}: give none, selective, full"):
            layer_policies(wrong, 3)


def test_attention_is_kept_and_the_rest_computed_again():
    layer, x = Layer(), torch.randn(2, 5, 16, requires_grad=True)
    golden = torch.autograd.grad(layer(x).sum(), x)[0]
    for policy in (True, "selective"):
        kernels = []

        class Kernels(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                kernels.append(str(function))  # noqa: B023  # read within the round
                return function(*args, **(kwargs or {}))

        layer.calls = 0
        out = recomputed(policy, layer, x).sum()
        with Kernels():
            gradient = torch.autograd.grad(out, x)[0]
        assert torch.equal(gradient, golden)
        assert layer.calls == 2
        again = [name for name in kernels if "attention" in name and "backward" not in name]
        assert len(again) == (1 if policy is True else 0)
    with torch.no_grad():
        recomputed(True, layer, x)
    assert layer.calls == 3


def test_harmony_takes_every_policy():
    gradients, kept = {}, {}
    for policy in ("none", "selective", 2, "full"):
        model, given = tiny_harmony(trained=True, checkpoint_activations=policy), inputs()
        v_v, v_a = model(**given)
        (v_v.square().sum() + v_a.square().sum()).backward()
        gradients[policy] = {name: p.grad for name, p in model.named_parameters()}
        kept[policy] = saved_bytes(lambda: model(**given), list(model.layers), model)[0]  # noqa: B023
    for policy in ("selective", 2, "full"):
        torch.testing.assert_close(gradients[policy], gradients["none"])
    assert kept["full"] < kept[2] < kept["none"]


def count(counts: list[int], place: int, *_: object) -> None:
    counts[place] += 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_syncphony_takes_every_policy(variant: str):
    """Gradients are bit for bit those of activations that are kept; late blocks alone are computed again."""
    gradients, kept, calls = {}, {}, {}
    for policy in ("none", "selective", 2, "full"):
        dit = tiny_dit(variant, 1, checkpoint_activations=policy)
        training = training_columns(latents(4))
        sounds = column_sounds(training, dit, audio_features(4, 49 / 24))
        columns = model_columns(training, text_features(4))
        parts = [*dit.backbone.blocks, *dit.audio_layers]
        counts = [0] * len(parts)
        for place, part in enumerate(parts):
            part.register_forward_pre_hook(partial(count, counts, place))
        sum(velocity.square().mean() for velocity in dit(columns, sounds)).backward()
        gradients[policy] = {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}
        calls[policy] = list(counts)
        with torch.no_grad():  # nothing to compute again
            dit(columns, sounds)
        assert counts == [number + 1 for number in calls[policy]]
        kept[policy] = saved_bytes(lambda: dit(columns, sounds), [], dit)[0]  # noqa: B023
    late = NUM_BLOCKS[variant] - 1
    every = [1 + (i % 2) for i in range(late)]
    assert calls["none"] == [1] * (1 + 2 * late)
    assert calls["full"] == calls["selective"] == [1, *[2] * (2 * late)]
    assert calls[2] == [1, *every, *every]
    assert kept["full"] < kept[2] < kept["none"]
    for policy in ("selective", 2, "full"):
        assert gradients[policy].keys() == gradients["none"].keys()
        for name, gradient in gradients["none"].items():
            assert torch.equal(gradients[policy][name], gradient), (policy, name)


def test_syncphony_refuses_an_unknown_policy_when_it_is_built():
    with pytest.raises(InputError, match="checkpoint_activations is 0: give none, selective, full"):
        tiny_dit("miniflux", 2, checkpoint_activations=0)
