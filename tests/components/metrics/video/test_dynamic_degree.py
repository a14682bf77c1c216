"""Dynamic degree: VBench's thresholds with a flow that is known, and torchvision's own RAFT where it is known too."""

import pytest
import torch

from components.errors import InputError
from components.metrics.video.dynamic_degree import DynamicDegree, fastest
from components.metrics.video.optical_flow import OpticalFlow, RaftFlow
from tests.components.metrics.video.clips import frozen, generation, moving_square, noise, saved

torchvision = pytest.importorskip("torchvision")


class BrightSquare(OpticalFlow):
    """Where the bright pixels' centre goes, for all bright pixels: exact on one square over black."""

    def forward(self, first, second):
        def center(picture):
            weights = picture[:, 0]
            columns = torch.arange(picture.shape[-1], dtype=torch.float32)
            return (weights * columns).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-6)

        flow = torch.zeros(len(first), 2, *first.shape[-2:])
        flow[:, 0] = (center(second) - center(first)).view(-1, 1, 1) * first[:, 0]
        return flow

    def identity(self):
        return {"flow": "bright square"}


def degree(video, fps, **settings):
    (score,) = DynamicDegree(BrightSquare(), **settings).score(generation(video, fps), [0])
    return score.values.get("dynamic_degree", score.problem)


def test_a_frozen_clip_is_not_dynamic():
    still = moving_square(1, 64, 0).expand(-1, 16, -1, -1, -1)
    assert degree(still, 8.0) == 0
    # in VBench two frames would be dynamic whatever they show
    assert degree(still[:, :2], 8.0) == 0


def test_the_threshold_is_6_pixels_at_256():
    """At 128 pixels more than 3; the square covers 5 % of 64 x 64 pixels, but not of 128 x 128."""
    side = 29  # 841 pixels, just above 5 % of 128 x 128 (819)
    for pixels, expected in ((3, 0), (4, 1)):
        assert degree(moving_square(12, 128, pixels, side), 8.0) == expected


def test_a_square_too_small_for_the_fastest_pixels_counts_by_its_share():
    """64 pixels of 819 move by 20: 1.6 on average, below 3."""
    assert degree(moving_square(6, 128, 20, side=8), 8.0) == 0


def test_enough_pairs_must_move():
    """Of 16 frames 4 pairs."""
    moving = moving_square(17, 128, 4, side=29)
    for moves, expected in ((3, 0), (4, 1), (5, 1)):
        order = torch.tensor([*range(moves + 1), *[moves] * (15 - moves)])
        assert degree(moving[:, order], 8.0) == expected


def test_frames_are_an_eighth_of_a_second_apart():
    """2 pixels a frame are 6 pixels in an eighth of a second at 24 fps, above 3."""
    video = moving_square(48, 128, 2, side=29)
    assert degree(video, 24.0) == 1
    assert degree(video, 8.0) == 0
    assert degree(video[:, :3], 24.0) == "too_short"


def test_pairs_at_once_and_the_batch_change_nothing():
    video = torch.cat([moving_square(12, 128, 4, 29), moving_square(12, 128, 3, 29)])
    whole = DynamicDegree(BrightSquare(), pairs_at_once=100).score(generation(video, 8.0), [1, 0])
    assert [score.values["dynamic_degree"] for score in whole] == [0, 1]
    judge = DynamicDegree(BrightSquare(), pairs_at_once=3)
    torch.testing.assert_close(judge.speeds(video[0]), DynamicDegree(BrightSquare()).speeds(video[0]))
    with pytest.raises(InputError, match="pairs_at_once is 0"):
        DynamicDegree(BrightSquare(), pairs_at_once=0)


def test_fastest_is_the_mean_of_5_percent():
    flow = torch.zeros(2, 2, 10, 10)
    flow[0, 0, 0, :5], flow[0, 1, 0, :5] = 3, -4
    flow[1, 0, 0, :3] = 10
    torch.testing.assert_close(fastest(flow), torch.tensor([5.0, 6.0]))


@pytest.fixture(scope="module")
def steady_raft(tmp_path_factory):
    """RAFT as torchvision builds it, whose last layer says "an eighth pixel down-left at every refinement"."""
    torch.manual_seed(0)
    net = torchvision.models.optical_flow.raft_large()
    last = net.update_block.flow_head.conv2
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([-0.0625, 0.0625])
    return saved(net, tmp_path_factory.mktemp("raft") / "raft.safetensors")


@pytest.mark.parametrize(("height", "width"), [(128, 136), (133, 150), (64, 96)])
def test_raft_gives_pixels_of_the_pictures(steady_raft, height, width):
    """Eight times the sum of the refinements, in pixels of a picture of any size, small ones too."""
    flow = RaftFlow(steady_raft, iterations=4)
    pictures = noise(1, 2, height, width)[0]
    with torch.no_grad():
        found = flow(pictures[:1], pictures[1:])
    assert found.shape == (1, 2, height, width)
    scale = max(1, 128 / min(height, width))
    middle = found[0, :, height // 3 : -height // 3, width // 3 : -width // 3]
    expected = torch.tensor([-2.0, 2.0]).view(2, 1, 1) / scale
    torch.testing.assert_close(middle, expected.expand_as(middle), atol=1e-3, rtol=1e-3)


def test_raft_in_the_judge(steady_raft):
    """2.8 pixels at once: above the threshold of 6 x 96 / 256 = 2.25 with 4 refinements, below it with 2."""
    clip = generation(frozen(1, 4, 144, 96), fps=8.0)
    for iterations, expected in ((2, 0), (5, 1)):
        judge = DynamicDegree(RaftFlow(steady_raft, iterations))
        assert judge.score(clip, [0])[0].values["dynamic_degree"] == expected
        assert judge.identity()["iterations"] == iterations and len(judge.identity()["sha256"]) == 64


def test_missing_weights_are_told(tmp_path):
    with pytest.raises(InputError, match=r"RaftFlow.weights: '.*' is no file on this disk; download https://download"):
        RaftFlow(str(tmp_path / "raft.pth"))
