import doctest

import pytest
import torch

from components.errors import InputError
from components.metrics.cyclesync import onsets
from components.metrics.cyclesync.onsets import OnsetDetector
from tests.golden_librosa.record import HOPS, RATE, bursts, numbers, signals, tracks_at_16_khz


@pytest.mark.parametrize("hop", HOPS)
def test_equals_librosa(hop):
    detector, librosa = OnsetDetector(hop=hop), numbers()
    picked = 0
    for index, track in enumerate(signals()):
        envelope, frames = librosa[f"envelope.{hop}.{index}"], librosa[f"frames.{hop}.{index}"]
        mine, count = detector.strength(torch.from_numpy(track)[None])
        assert count.tolist() == [len(envelope)]
        torch.testing.assert_close(mine[0], envelope, atol=1e-4, rtol=0)
        assert detector.pick(mine, count)[0] == frames.tolist()
        picked += len(frames)
    assert picked > 40


def test_first_frame_may_be_a_peak():
    envelope = torch.tensor([[1.0, 0.2, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1]])
    assert OnsetDetector().pick(envelope) == [[0, 6]]  # as librosa 0.11


def test_resampling_from_16_khz_equals_librosa():
    librosa = numbers()
    for index, mine in enumerate(OnsetDetector()(tracks_at_16_khz(), 16_000)):
        assert mine == pytest.approx(librosa[f"resampled.{index}"].tolist())


@pytest.mark.parametrize("rate", [16_000, RATE, 44_100])
def test_known_onsets_are_found_once_and_slightly_late(rate):
    times = [0.3, 0.75, 1.2, 1.7]
    found = OnsetDetector()(bursts(times, 2 * rate, rate)[None], rate)[0]
    assert len(found) == len(times)
    assert all(0.0 < late - true < 0.035 for late, true in zip(found, times, strict=True))


def test_batch_of_unequal_durations_equals_each_clip_alone():
    detector = OnsetDetector()
    tracks = torch.stack([bursts([0.3, 0.9, 1.4], 32_000, 16_000, seed=k) for k in range(4)])
    seconds = [0.7, 2.0, 1.35, 1.0]
    together = detector(tracks, 16_000, seconds)
    alone = [detector(track[None, : round(s * 16_000)], 16_000)[0] for track, s in zip(tracks, seconds, strict=True)]
    assert together == alone
    assert [len(times) for times in together] == [1, 3, 2, 2]
    assert detector(tracks, 16_000, 1.0) == detector(tracks[:, :16_000], 16_000)


def test_silence_nan_and_no_clips_have_no_onsets_and_do_not_disturb_others():
    tracks = torch.stack([bursts([0.5, 1.0]), torch.zeros(2 * RATE), torch.full((2 * RATE,), float("nan"))])
    found = OnsetDetector()(tracks, RATE)
    assert found[0] == OnsetDetector()(tracks[:1], RATE)[0]
    assert found[1:] == [[], []]
    assert OnsetDetector()(torch.zeros(0, 100), RATE) == []
    assert OnsetDetector()(torch.zeros(2, 0), RATE) == [[], []]


def test_gate_drops_the_onsets_of_a_noise_floor_only():
    noise = 10 ** (-60 / 20) * torch.randn(1, 2 * RATE, generator=torch.Generator().manual_seed(0))
    assert len(OnsetDetector()(noise, RATE)[0]) > 3
    assert OnsetDetector(gate_db=-50.0)(noise, RATE) == [[]]
    mixed = noise + bursts([0.6, 1.3], decay_s=0.003)[None]
    gated = OnsetDetector(gate_db=-50.0)(mixed, RATE)[0]
    assert [round(time, 1) for time in gated] == [0.6, 1.3]


def test_loudness_does_not_matter_without_a_gate():
    track = bursts([0.4, 0.9, 1.5])[None]
    assert OnsetDetector()(track, RATE) == OnsetDetector()(0.1 * track, RATE)


def test_channels_are_averaged():
    track = bursts([0.4, 1.1])
    stereo = torch.stack([track, track])[None]
    assert OnsetDetector()(stereo, RATE) == OnsetDetector()(track[None], RATE)


def test_autocast_changes_nothing():
    track = bursts([0.4, 1.1])[None] + 1e-3 * torch.randn(1, 2 * RATE, generator=torch.Generator().manual_seed(1))
    plain = OnsetDetector()(track, RATE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert OnsetDetector()(track, RATE) == plain


def test_bad_input_is_named():
    with pytest.raises(InputError, match="hop 512 at 16000 Hz is longer than the 30 ms picking window"):
        OnsetDetector(sample_rate=16_000)
    with pytest.raises(InputError, match=r"not \[100\]"):
        OnsetDetector()(torch.zeros(100), RATE)
    with pytest.raises(InputError, match="3 durations were given for 2 clips"):
        OnsetDetector()(torch.zeros(2, 100), RATE, [1.0, 1.0, 1.0])


def test_example_in_the_documentation():
    assert doctest.testmod(onsets).attempted > 0
    assert doctest.testmod(onsets).failed == 0
