"""FLOPs on the meta device are those by hand, and a twin without values leaves the module as it is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.counting.flops import activations_kept, backward, flops_of, meta_twin


class Block(nn.Module):
    """Attention and a projection; computed again in the backward pass if asked for."""

    def __init__(self, dim: int, checkpoint_activations: bool) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("scale", torch.ones(dim), persistent=False)
        self.checkpoint_activations = checkpoint_activations

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpoint_activations:
            return checkpoint(self.run, x, use_reentrant=False)  # type: ignore[no-any-return]
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        x = self.proj(x) * self.scale
        return F.scaled_dot_product_attention(x, x, x)


def test_attention_counts_and_recomputation_does_not():
    rows, tokens, dim = 2, 24, 8
    linear, attention = 2 * rows * tokens * dim * dim, 4 * rows * tokens * tokens * dim
    x = torch.randn(rows, tokens, dim)
    for checkpoints in (False, True):
        block = Block(dim, checkpoints)
        twin = meta_twin(block)
        with torch.no_grad():
            assert flops_of(lambda: twin(x.to("meta"))) == linear + attention  # noqa: B023
        with activations_kept(twin):
            # backward: a product for the weight (the input needs none), two for each of attention's two
            assert flops_of(lambda: backward([twin(x.to("meta"))])) == 2 * linear + 3 * attention  # noqa: B023
        assert twin.checkpoint_activations == checkpoints


def test_a_twin_trains_what_the_module_trains_and_shares_nothing():
    block = Block(8, False)
    block.proj.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    twin = meta_twin(block)
    assert {name: p.requires_grad for name, p in twin.named_parameters()} == {"proj.weight": True, "proj.bias": False}
    assert all(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers()))
    backward([twin(torch.zeros(1, 3, 8, device="meta"))])
    assert block.proj.weight.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())
