import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.metrics.syncnet.offsets import median_filter, shifted_distances, sync_offset


def walk(num, seed=0):
    return torch.randn(num, 8, generator=torch.Generator().manual_seed(seed))


@given(st.integers(-10, 10), st.integers(0, 5))
def test_a_planted_shift_is_found(shift, seed):
    long = walk(100, seed)
    video, audio = long[20:80], long[20 + shift : 80 + shift]  # the sound runs `shift` frames ahead
    found = sync_offset(video, audio)
    assert found.offset == shift
    aligned = 60 - abs(shift)
    assert found.distances[:, 15 - shift].sort().values[:aligned].max() < 1e-3
    assert found.confidence == pytest.approx((found.mean_distances.median() - found.mean_distances.min()).item())
    assert found.min_distance == found.mean_distances.min().item()


def test_distances_by_the_book():
    video, audio = walk(6, 1), walk(9, 2)
    found = shifted_distances(video, audio, 2)
    padded = torch.cat((torch.zeros(2, 8), audio[:6], torch.zeros(2, 8)))
    for i in range(6):
        for s in range(5):
            expected = torch.nn.functional.pairwise_distance(video[i : i + 1], padded[i + s : i + s + 1])
            assert found[i, s].item() == pytest.approx(expected.item(), abs=1e-5)


def test_unrelated_tracks_have_no_confidence():
    related = sync_offset(walk(60), walk(60) + 0.1).confidence
    assert sync_offset(walk(60), walk(60, 9)).confidence < 0.3 * related


@pytest.mark.parametrize("window", [1, 9])
def test_median_filter_equals_scipy(window):
    values = walk(20).flatten()
    expected = torch.from_numpy(scipy.signal.medfilt(values.numpy(), window))
    torch.testing.assert_close(median_filter(values, window), expected)


def test_no_window_is_refused():
    with pytest.raises(InputError, match="0 windows of video and 5 of audio have no offset"):
        sync_offset(walk(0), walk(5))
