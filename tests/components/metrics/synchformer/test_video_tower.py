import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from components.metrics.synchformer.video_tower import DividedAttention, VideoTower

TIMES, PATCHES, DIM, HEADS = 3, 5, 8, 2


def who_sees_whom(over_time):
    """Bool ``[N, N]`` by the definition: the class token sees all and is seen by all, others see their group."""
    time = torch.arange(TIMES).repeat_interleave(PATCHES)
    place = torch.arange(PATCHES).repeat(TIMES)
    group = place if over_time else time
    seen = torch.ones(1 + TIMES * PATCHES, 1 + TIMES * PATCHES, dtype=torch.bool)
    seen[1:, 1:] = group[:, None] == group
    return seen


@pytest.mark.parametrize("over_time", [True, False])
@torch.no_grad()
def test_groups_are_full_attention_under_a_mask(over_time):
    torch.manual_seed(0)
    attention = DividedAttention(DIM, HEADS)
    tokens = torch.randn(2, 1 + TIMES * PATCHES, DIM)
    found = attention(tokens, TIMES, over_time)
    query, key, value = (
        part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in attention.qkv(tokens).chunk(3, dim=-1)
    )
    attended = scaled_dot_product_attention(query, key, value, attn_mask=who_sees_whom(over_time))
    torch.testing.assert_close(found, attention.proj(attended.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_segments_do_not_see_each_other():
    torch.manual_seed(0)
    tower = VideoTower(dim=8, depth=1, num_heads=2).eval()
    torch.nn.init.normal_(tower.temp_embed)
    segments = torch.randn(2, 16, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    together = tower(segments)
    assert together.shape == (2, 8, 8)
    torch.testing.assert_close(tower(segments[1:]), together[1:], atol=1e-5, rtol=1e-5)
    # a tower that knows what comes first
    assert (tower(segments[:1].flip(1)) - together[:1].flip(1)).abs().max() > 1e-3
