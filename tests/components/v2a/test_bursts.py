import numpy as np
import pytest
import torch

from components.metrics.cyclesync.matching import match_events
from components.metrics.cyclesync.onsets import OnsetDetector
from components.v2a.bursts import BURST_DELAY_S, render_bursts

RATE = 22_050


def plans(gap_s, count=60, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        times, time = [], rng.uniform(0.05, 0.5)
        while time < 1.9:
            times.append(time)
            time += gap_s + rng.exponential(0.15)
        yield times


@pytest.mark.parametrize(("gap_s", "recall"), [(0.08, 0.95), (0.1, 0.98), (0.35, 0.99)])
def test_every_burst_is_detected_once_at_the_stated_delay(gap_s, recall):
    asked = list(plans(gap_s))
    found = OnsetDetector()(render_bursts(asked, 2 * RATE, RATE), RATE)
    pairs = [(a, f, match_events(a, f, 0.06)) for a, f in zip(asked, found, strict=True)]
    late = np.array([f[j] - a[i] for a, f, matched in pairs for i, j in matched])
    assert len(late) >= recall * sum(map(len, asked))
    assert sum(map(len, found)) == len(late)  # nothing is detected that was not asked for
    assert late.mean() == pytest.approx(BURST_DELAY_S, abs=0.004)


def test_silence_stays_silence():
    assert not render_bursts([[], [0.5]], RATE, RATE)[0].any()


def test_clips_have_their_own_noise_and_times_outside_are_left_out():
    def tracks(*seeds):
        return render_bursts([[0.2]] * len(seeds), RATE, RATE, [torch.Generator().manual_seed(s) for s in seeds])

    assert torch.equal(tracks(3, 4)[1], tracks(4)[0])
    assert not torch.equal(*tracks(3, 4))
    outside = render_bursts([[-0.1, 1.0, 5.0]], RATE, RATE)
    assert outside.shape == (1, RATE)
    assert not outside.any()


def test_bursts_at_the_very_end_are_cut():
    track = render_bursts([[0.99]], RATE, RATE)
    assert track.shape == (1, RATE)
    assert track[0, int(0.99 * RATE) + 5 :].any()
