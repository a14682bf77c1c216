import pytest
import torch

from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.scorers import ClipScores, real_clips
from components.metrics.sound_offsets import with_sound_moved
from components.metrics.synchformer.model import Synchformer
from components.metrics.synchformer.scorer import DeSync

RATE = 16_000


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Synchformer(dim=8, depth=1, num_heads=2, head_depth=1, head_num_heads=2)


def clips(num_clips=2, num_frames=40, fps=25.0, seconds=None, rate=RATE) -> Generation:
    draw = torch.Generator().manual_seed(num_frames)
    small = torch.randint(0, 256, (num_clips, num_frames, 3, 4, 6), generator=draw, dtype=torch.uint8)
    video = small.repeat_interleave(8, 3).repeat_interleave(8, 4)
    audio = torch.randn(num_clips, round((seconds or num_frames / fps) * rate), generator=draw) / 10
    ids = [f"clip{index}" for index in range(num_clips)]
    return real_clips(ClipBatch(ids, video, fps, audio, rate, [""] * num_clips, ids))


def sure_of(net, index):
    """A copy of ``net`` that answers with one class whatever it is shown."""
    other = Synchformer(**net.config)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        other.transformer.off_head.weight.zero_()
        other.transformer.off_head.bias.copy_(50.0 * torch.nn.functional.one_hot(torch.tensor(index), 21))
    return other


@pytest.mark.parametrize(("index", "seconds"), [(10, 0.0), (7, 0.6), (20, 2.0)])
def test_a_network_that_is_sure(net, index, seconds):
    (found,) = DeSync(sure_of(net, index)).score(clips(1), [0])
    assert found.problem is None
    assert found.values == pytest.approx(
        {"desync": seconds, "desync_expected": seconds, "desync_looped": 1.0}, abs=1e-5
    )
    assert found.values.keys() == DeSync.higher_is_better.keys()


def test_scores_do_not_depend_on_the_batch_or_on_autocast(net):
    scorer = DeSync(net)
    batch = clips(3)
    together = scorer.score(batch, [0, 1, 2])
    assert [scorer.score(batch, [row])[0] for row in (2, 0, 1)] == [together[2], together[0], together[1]]
    with torch.autocast("cpu", torch.bfloat16):
        assert scorer.score(batch, [1]) == [together[1]]
    assert len({score.values["desync_expected"] for score in together}) == 3


def test_pieces_change_nothing(net):
    clip = clips(1)
    tracks = (clip.video[0], clip.fps, clip.audio[0], clip.sample_rate)
    for one, other in zip(
        DeSync(net, segments_at_once=1).segments(*tracks), DeSync(net).segments(*tracks), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("generation", "rule", "problem"),
    [
        (clips(1, 15), "javisbench", "too_short"),
        (clips(1, 16), "javisbench", None),
        (clips(1, 16, seconds=0.6), "javisbench", "too_short"),  # sound that ends before its picture
        (clips(1, 40), "av_benchmark", "too_short"),
    ],
)
def test_clips_that_are_too_short_are_counted_apart(net, generation, rule, problem):
    (found,) = DeSync(net, rule).score(generation, [0])
    assert found.problem == problem
    assert (found == ClipScores(problem="too_short")) == (problem is not None)


def test_a_clip_of_a_whole_window_is_not_looped(net):
    short, whole = (torch.zeros(count, 8, 8) for count in (13, 14))
    scorer = DeSync(net)
    assert scorer.compare(short, short[:, :6]).values["desync_looped"] == 1.0
    assert scorer.compare(whole, whole[:, :6]).values["desync_looped"] == 0.0
    # the shorter track counts, where a clip is compared with another one's sound
    assert scorer.compare(whole, short[:, :6]).values["desync_looped"] == 1.0


def test_segments_go_by_time(net):
    """Moved by one step, 0.32 s, the same segments of picture and sound meet others."""
    scorer, clip = DeSync(net), clips(1, 40)
    moved = with_sound_moved(clip, 0.32)
    found = scorer.segments(moved.video[0], moved.fps, moved.audio[0], moved.sample_rate)
    picture, sound = scorer.segments(clip.video[0], clip.fps, clip.audio[0], clip.sample_rate)
    torch.testing.assert_close(found[0], picture[1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], sound[:-1], atol=1e-4, rtol=1e-4)


def test_other_rates_are_brought_to_25_fps_and_16_khz(net):
    """At 50 fps every second frame is what 25 fps show half way through a frame."""
    scorer, clip = DeSync(net), clips(1, 40)
    twice = clip.video[0].repeat_interleave(2, 0)
    picture, sound = scorer.segments(twice, 50.0, clip.audio[0], RATE)
    expected = scorer.segments(clip.video[0], 25.0, clip.audio[0], RATE)
    assert torch.equal(picture, expected[0]) and torch.equal(sound, expected[1])
    faster = clips(1, 40, rate=44_100)
    assert len(scorer.segments(faster.video[0], 25.0, faster.audio[0], 44_100)[1]) == len(sound)


def test_weights_stay_frozen_and_are_named(net):
    scorer = DeSync(net).train()
    assert not scorer.net.training and not any(weight.requires_grad for weight in scorer.parameters())
    identity = scorer.identity()
    assert identity["desync_rule"] == "javisbench" and len(str(identity["synchformer_sha256"])) == 64
    assert identity != DeSync(sure_of(net, 0)).identity()


def test_arguments_out_of_range_are_refused(net):
    with pytest.raises(InputError, match=r"DeSync\.rule is 'gmelab'; use one of javisbench, av_benchmark"):
        DeSync(net, rule="gmelab")
    with pytest.raises(InputError, match=r"DeSync\.segments_at_once is 0"):
        DeSync(net, segments_at_once=0)
