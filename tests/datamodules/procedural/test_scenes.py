"""What is seen when: rest, anticipation, contact, response; at any size."""

import numpy as np
import pytest

from datamodules.procedural.scenes import (
    ANTICIPATION_S,
    MIN_GAP_S,
    RECOVERY_S,
    SCENES,
    Canvas,
    Event,
    contact,
    ellipse,
    hsv,
    response,
)

EVENTS = [Event(0.5123, 0), Event(1.2, 1), Event(1.2 + MIN_GAP_S, 2)]
STRIKES = ["bouncing_ball", "striking_mallet"]


def draw(kind: str, times: np.ndarray, events: list[Event] = EVENTS, size: int = 32, seed: int = 0) -> np.ndarray:
    return SCENES[kind](events, times, size, size, 0.5, np.random.default_rng(seed)).astype(np.float32)


def test_contact_is_reached_exactly_at_each_event_and_accelerates() -> None:
    onsets = np.array([event.time_s for event in EVENTS])
    assert contact(onsets, EVENTS) == pytest.approx(1)
    dive = contact(np.linspace(0.5123 - ANTICIPATION_S, 0.5123, 50), EVENTS)
    assert dive[0] == pytest.approx(0)
    assert (np.diff(dive, 2) > 0).all()
    fly = contact(np.linspace(0.5123, 0.5123 + RECOVERY_S, 50), EVENTS)
    assert (np.diff(fly) < 0).all()
    assert (np.diff(fly, 2) > 0).all()
    still = np.array([0.0, 0.5123 - ANTICIPATION_S - 1e-6, 0.5123 + RECOVERY_S + 1e-6, 1.2 - ANTICIPATION_S - 1e-6])
    assert (contact(still, EVENTS) == 0).all()


def test_the_response_jumps_at_the_event_and_is_gone_soon() -> None:
    assert response(np.array([0.5122, 0.5123, 0.5123 + 0.15]), EVENTS) == pytest.approx([0, 1, 0], abs=0.05)


@pytest.mark.parametrize("kind", STRIKES)
def test_nothing_moves_between_events(kind: str) -> None:
    still = [0.0, 0.2, 0.5123 - ANTICIPATION_S, 1.03]
    frames = draw(kind, np.array(still))
    assert np.abs(frames - frames[0]).max() <= 1  # the last trace of the flash is below one level
    moving = draw(kind, np.array([0.0, 0.5123 - 0.08, 0.5123, 0.5123 + 0.08]))
    assert (np.abs(moving[1:] - moving[0]).max(axis=(1, 2, 3)) > 50).all()


@pytest.mark.parametrize("kind", list(SCENES))
def test_the_first_frame_says_nothing_about_the_events(kind: str) -> None:
    times = np.arange(49) / 24
    one = draw(kind, times, [Event(0.5), Event(1.0)])
    two = draw(kind, times, [Event(0.8), Event(1.3), Event(1.7)])
    assert np.array_equal(one[0], two[0])
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("kind", list(SCENES))
def test_the_largest_change_is_at_the_event_to_the_exact_time(kind: str) -> None:
    for onset in (0.5123, 0.517, 0.5208):
        times = np.array([onset - 2e-3, onset - 1e-3, onset, onset + 1e-3])
        steps = np.abs(np.diff(draw(kind, times, [Event(onset)]), axis=0)).mean(axis=(1, 2, 3))
        assert steps.argmax() == 1
        assert steps[1] > 3 * max(steps[0], steps[2])


def test_the_ball_touches_the_floor_at_the_event() -> None:
    frames = draw("bouncing_ball", np.array([0.0, 0.5123 - 1e-4]), size=128)
    left = np.argwhere(np.abs(frames[1, :, :64] - frames[0, :, :64]).max(axis=0) > 60)
    row, column = np.median(left, axis=0).astype(int)
    colour = frames[0, :, row, column, None, None]
    ball = np.argwhere(np.abs(frames[1] - colour).max(axis=0) < 40)
    floor = np.abs(np.diff(frames[0].mean(axis=(0, 2)))).argmax() + 1
    assert abs(ball[:, 0].max() + 1 - floor) <= 1
    assert ball[:, 0].min() > 64


def test_a_mouth_opens_at_once_and_closes_and_blinks_have_no_sound() -> None:
    times = np.arange(0, 2, 0.01)
    frames = draw("speaking_face", times, [Event(0.5)], size=64)
    mouth = np.abs(frames[:, :, 40:, :] - frames[:1, :, 40:, :]).mean(axis=(1, 2, 3))
    assert mouth[times < 0.5 - 1e-9].max() == 0
    assert mouth[50] > 0.9 * mouth.max()
    assert mouth[times > 0.69].max() < 0.02 * mouth.max()
    eyes = np.abs(frames[:, :, 20:36, :] - frames[:1, :, 20:36, :]).mean(axis=(1, 2, 3))
    assert eyes[(times < 0.45) | (times > 0.75)].max() > 1


@pytest.mark.parametrize("kind", list(SCENES))
def test_small_pictures_are_the_averages_of_large_ones(kind: str) -> None:
    times = np.arange(8, 20) / 24
    small, large = draw(kind, times, size=32), draw(kind, times, size=256)
    averaged = large.reshape(len(times), 3, 32, 8, 32, 8).mean(axis=(3, 5))
    assert np.abs(averaged - small).mean() < 2


@pytest.mark.parametrize("kind", list(SCENES))
def test_pictures_depend_on_the_generator_alone_and_vary(kind: str) -> None:
    times = np.arange(12) / 24
    assert np.array_equal(draw(kind, times), draw(kind, times))
    others = [draw(kind, times[:1], seed=seed) for seed in range(6)]
    assert min(np.abs(a - b).mean() for k, a in enumerate(others) for b in others[:k]) > 2
    wide = SCENES[kind](EVENTS, times, 32, 64, 0.5, np.random.default_rng(0))
    assert wide.shape == (12, 3, 32, 64)
    assert wide.dtype == np.uint8


def test_shapes_are_covered_by_area() -> None:
    canvas = Canvas(64, 64)
    canvas.draw(ellipse(canvas, 0.013, 0.507, 0.3, 0.2), (1, 1, 1))
    assert canvas.pixels()[0, 0].mean() / 255 == pytest.approx(np.pi * 0.3 * 0.2, rel=0.01)


def test_hues() -> None:
    assert hsv(0, 1, 1) == (1, 0, 0)
    assert hsv(1 / 3, 1, 0.5) == pytest.approx((0, 0.5, 0))
    assert hsv(2 / 3 + 1, 1, 1) == pytest.approx((0, 0, 1))
    assert hsv(0.4, 0, 0.7) == pytest.approx((0.7, 0.7, 0.7))
