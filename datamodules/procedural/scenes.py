"""Little animated scenes whose events are seen exactly when they are heard.

Every scene rests still between its events, starts to move at most ``ANTICIPATION_S`` before an event, is in contact at
the event itself (drawn at the exact time of each frame, so the contact is exact below a frame) and shows a short
response after it. Shapes are drawn by the coverage of their signed distance, so the same scene works at any size.

Lengths are in units of the picture's height: y runs from 0 (top) to 1, x is 0 in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ANTICIPATION_S = 0.16
RECOVERY_S = 0.19
RESPONSE_S = 0.05  # time constant of flashes and squashes
MIN_GAP_S = ANTICIPATION_S + RECOVERY_S

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Event:
    """One sounding event.

    Attributes:
        time_s: the onset.
        vowel: index of the vowel a face speaks; other scenes ignore it.
    """

    time_s: float
    vowel: int = 0


Scene = Callable[[Sequence[Event], np.ndarray, int, int, float, np.random.Generator], np.ndarray]


def contact(times: np.ndarray, events: Sequence[Event]) -> np.ndarray:
    """How close the moving part is to contact: 0 at rest, 1 exactly at each event; accelerates in, slows down out."""
    onsets = _onsets(events)
    until = onsets[None, :] - times[:, None]
    # falls in before an event, flies off after it; each is 0 outside its own side
    dive = np.clip(1 - until / ANTICIPATION_S, 0, 1) * (until >= 0)
    fly = np.clip(1 + until / RECOVERY_S, 0, 1) * (until < 0)
    result: np.ndarray = np.maximum(dive, fly).max(axis=1, initial=0.0) ** 2
    return result


def response(times: np.ndarray, events: Sequence[Event]) -> np.ndarray:
    """Jumps to 1 at each event and decays with ``RESPONSE_S``; gone (below 0.05) after 0.15 s."""
    since = times[:, None] - _onsets(events)[None, :]
    result: np.ndarray = np.where(since >= 0, np.exp(-np.maximum(since, 0) / RESPONSE_S), 0).max(axis=1, initial=0.0)
    return result


def bouncing_ball(
    events: Sequence[Event], times: np.ndarray, height: int, width: int, size: float, rng: np.random.Generator
) -> np.ndarray:
    """A ball that rests high, dives, hits the floor at each event and flies back: uint8 ``[T, 3, H, W]``."""
    hit, flash = contact(times, events), response(times, events)
    radius = 0.11 + 0.06 * size
    floor = rng.uniform(0.82, 0.9)
    centre_x = rng.uniform(-0.2, 0.2) * width / height
    rest_y = rng.uniform(0.2, 0.26)
    hue = rng.uniform()
    shade = rng.uniform(0.55, 0.9)
    ball = hsv(hue, rng.uniform(0.75, 0.95), 0.95)
    wall = hsv(hue + rng.uniform(0.35, 0.65), rng.uniform(0.08, 0.3), shade)
    ground = hsv(hue + 0.5, 0.25, shade * 0.55)

    # drawn once: wall and ground
    canvas = Canvas(height, width)
    canvas.gradient(wall, tuple(0.85 * c for c in wall))
    canvas.draw(canvas.below(floor), ground)
    # from here on each frame is drawn anew
    canvas.animate(len(times))
    glow = ellipse(canvas, centre_x, floor, radius * (3.0 - 1.6 * flash), radius * 0.4)
    canvas.draw(glow, (1.0, 1.0, 0.9), 0.85 * flash, blur=0.04)
    canvas.draw(ellipse(canvas, centre_x, floor + 0.03, radius * (0.5 + 0.5 * hit), 0.025), (0, 0, 0), 0.15 + 0.3 * hit)
    tall, wide = radius * (1 - 0.3 * flash), radius * (1 + 0.25 * flash)
    centre_y = rest_y + (floor - radius - rest_y) * hit + (radius - tall) * hit
    canvas.draw(ellipse(canvas, centre_x, centre_y, wide, tall), ball)
    canvas.draw(
        ellipse(canvas, centre_x + 0.06 * radius, centre_y + 0.1 * radius, 0.86 * wide, 0.84 * tall),
        tuple(0.82 * c for c in ball),
        0.5,
    )
    canvas.draw(
        ellipse(canvas, centre_x - 0.35 * radius, centre_y - 0.38 * tall, 0.28 * radius, 0.2 * radius), (1, 1, 1), 0.7
    )
    return canvas.pixels()


def striking_mallet(
    events: Sequence[Event], times: np.ndarray, height: int, width: int, size: float, rng: np.random.Generator
) -> np.ndarray:
    """A mallet that swings down on a bar; the bar dips and flashes when it is hit: uint8 ``[T, 3, H, W]``."""
    hit, flash = contact(times, events), response(times, events)
    side = rng.choice([-1.0, 1.0])
    middle = rng.uniform(-0.04, 0.04)
    head_radius = 0.08 + 0.03 * size
    bar_top = rng.uniform(0.72, 0.78)
    bar_half = np.array([0.24 + 0.08 * size, 0.05])
    arm = 0.5
    pivot_x, pivot_y = middle - side * 0.36, bar_top - head_radius - 0.04
    hue = rng.uniform()
    metal = hsv(hue, 0.65, rng.uniform(0.6, 0.8))
    head_colour = hsv(hue + rng.uniform(0.35, 0.65), 0.8, 0.9)
    shade = rng.uniform(0.12, 0.38)
    wall = hsv(rng.uniform(), 0.25, shade)

    # drawn once: wall and feet
    canvas = Canvas(height, width)
    canvas.gradient(wall, tuple(1.35 * c for c in wall))
    for foot in (-0.6, 0.6):
        canvas.draw(box(canvas, middle + foot * bar_half[0], bar_top + 0.14, 0.025, 0.07, 0.01), (0.35, 0.25, 0.18))
    # from here on each frame is drawn anew
    canvas.animate(len(times))
    dip = 0.035 * flash
    lit = np.stack([c + (1.0 - c) * flash for c in metal], axis=-1)
    halo = box(canvas, middle, bar_top + 0.05, bar_half[0] + 0.04, 0.09, 0.08)
    canvas.draw(halo, (1.0, 0.95, 0.75), 0.6 * flash, blur=0.16)
    canvas.draw(box(canvas, middle, bar_top + bar_half[1] + dip, bar_half[0], bar_half[1], 0.02), lit)
    # the arm's angle at which the head touches the bar
    low = np.arcsin((bar_top - head_radius - pivot_y) / arm)
    angle = np.deg2rad(-62) + (low - np.deg2rad(-62)) * hit
    head_x, head_y = pivot_x + side * arm * np.cos(angle), pivot_y + arm * np.sin(angle)
    canvas.draw(capsule(canvas, pivot_x, pivot_y, head_x, head_y, 0.02), (0.8, 0.65, 0.42))
    canvas.draw(ellipse(canvas, head_x, head_y, head_radius, head_radius), head_colour)
    canvas.draw(
        ellipse(canvas, head_x - 0.3 * head_radius, head_y - 0.35 * head_radius, 0.28 * head_radius, 0.2 * head_radius),
        (1, 1, 1),
        0.6,
    )
    canvas.draw(ellipse(canvas, pivot_x, pivot_y, 0.035, 0.035), (0.55, 0.45, 0.35))
    return canvas.pixels()


# Half width and half height of the open mouth for the vowels a, o, e.
_MOUTHS = np.array([[0.125, 0.115], [0.085, 0.105], [0.15, 0.08]])
_SKINS = ((0.98, 0.84, 0.72), (0.91, 0.72, 0.57), (0.76, 0.55, 0.4), (0.55, 0.38, 0.27))


def speaking_face(
    events: Sequence[Event], times: np.ndarray, height: int, width: int, size: float, rng: np.random.Generator
) -> np.ndarray:
    """A face whose mouth snaps open at each syllable and whose eyes blink silently: uint8 ``[T, 3, H, W]``."""
    onsets = _onsets(events)
    since = times[:, None] - onsets[None, :]
    # Open at once, hold for 0.04 s, closed again 0.18 s after the onset.
    openings = np.where(since >= 0, 0.5 + 0.5 * np.cos(np.pi * np.clip((since - 0.04) / 0.14, 0, 1)), 0.0)
    opening = openings.max(axis=1, initial=0.0)
    # the syllable that was spoken last decides the shape of the mouth
    last = np.maximum(np.searchsorted(onsets, times, side="right") - 1, 0)
    vowels = np.array([event.vowel for event in events] or [0])
    mouth_wide, mouth_tall = _MOUTHS[vowels[last]].T
    x, y = rng.uniform(-0.05, 0.05), rng.uniform(0.5, 0.54)
    scale = 0.9 + 0.15 * size
    skin = tuple(np.array(_SKINS[rng.integers(len(_SKINS))]) * rng.uniform(0.94, 1.0))
    hair = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.3, 0.8), rng.uniform(0.1, 0.6))
    lips = (min(1.0, skin[0] * 0.9), skin[1] * 0.55, skin[2] * 0.55)
    iris = hsv(rng.uniform(0.05, 0.65), 0.6, 0.45)
    wall = hsv(rng.uniform(), rng.uniform(0.2, 0.5), rng.uniform(0.35, 0.8))
    eye_open = 1 - blinks(times, rng)

    # drawn once: all that a face keeps
    canvas = Canvas(height, width)
    canvas.gradient(wall, tuple(0.75 * c for c in wall))
    canvas.draw(box(canvas, x, 1.05, 0.36 * scale, 0.14, 0.12), hsv(rng.uniform(), 0.6, 0.6))
    canvas.draw(ellipse(canvas, x, y - 0.1 * scale, 0.35 * scale, 0.37 * scale), hair)
    canvas.draw(ellipse(canvas, x, y + 0.02 * scale, 0.3 * scale, 0.39 * scale), skin)
    canvas.draw(ellipse(canvas, x, y - 0.33 * scale, 0.25 * scale, 0.1 * scale), hair)
    canvas.draw(ellipse(canvas, x, y + 0.06 * scale, 0.03 * scale, 0.05 * scale), tuple(0.86 * c for c in skin))
    # from here on each frame is drawn anew: eyes, brows, mouth
    canvas.animate(len(times))
    lift = 0.02 * opening
    for side in (-1, 1):
        eye_x, eye_y = x + side * 0.13 * scale, y - 0.08 * scale
        canvas.draw(ellipse(canvas, eye_x, eye_y, 0.065 * scale, (0.004 + 0.045 * eye_open) * scale), (1, 1, 1))
        canvas.draw(ellipse(canvas, eye_x, eye_y, 0.032 * scale, (0.004 + 0.038 * eye_open) * scale), iris)
        canvas.draw(box(canvas, eye_x, eye_y - (0.095 + lift) * scale, 0.065 * scale, 0.012 * scale, 0.01), hair)
    mouth_y = y + 0.2 * scale + 0.03 * opening
    wide = (0.1 + (mouth_wide - 0.1) * opening) * scale
    tall = mouth_tall * opening * scale
    canvas.draw(ellipse(canvas, x, mouth_y, wide + 0.025 * scale, tall + 0.028 * scale), lips)
    canvas.draw(ellipse(canvas, x, mouth_y, wide, tall + 0.004 * scale), (0.22, 0.04, 0.06))
    canvas.draw(ellipse(canvas, x, mouth_y + 0.55 * tall, 0.6 * wide, 0.4 * tall + 1e-3), (0.8, 0.3, 0.32), opening)
    return canvas.pixels()


SCENES: Mapping[str, Scene] = {
    "bouncing_ball": bouncing_ball,
    "striking_mallet": striking_mallet,
    "speaking_face": speaking_face,
}


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Red, green, blue in [0, 1] of a hue (in turns), saturation and value."""
    # hue by closed form; the offsets are those of red, green and blue
    channels = ((hue * 6 + offset) % 6 for offset in (5, 3, 1))
    red, green, blue = (value - value * saturation * max(0.0, min(k, 4 - k, 1.0)) for k in channels)
    return red, green, blue


class Canvas:
    """A picture in [0, 1], one frame until ``animate``; shapes are blended in the order they are drawn."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        # centres of pixels, in units of the height
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[None, :, None]
        self.x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / height)[None, None, :]
        self._frames = np.zeros((1, 3, height, width), np.float32)

    def gradient(self, top: Sequence[float], bottom: Sequence[float]) -> None:
        """Fills the picture from one colour at the top to another at the bottom."""
        for channel in range(3):
            self._frames[:, channel] = top[channel] + (bottom[channel] - top[channel]) * self.y

    def animate(self, num_frames: int) -> None:
        """What was drawn so far is the still background of ``num_frames`` frames."""
        self._frames = np.repeat(self._frames, num_frames, axis=0)

    def below(self, y: float) -> np.ndarray:
        """Signed distance of the half plane under ``y``."""
        return np.broadcast_to(y - self.y, (1, self.height, self.width))

    def draw(
        self,
        distance: np.ndarray,
        colour: Sequence[float] | np.ndarray,
        alpha: float | np.ndarray = 1.0,
        blur: float = 0.0,
    ) -> None:
        """Blends a shape in; a pixel is covered as far as the edge (distance 0) reaches into it.

        Args:
            distance: signed distance ``[1 or T, H, W]``, negative inside.
            colour: red, green, blue, or one such row per frame ``[T, 3]``.
            alpha: opacity, or one per frame ``[T]``.
            blur: width over which the edge fades out (inwards and outwards), at least a pixel.
        """
        cover = np.clip(0.5 - distance / max(blur, 1 / self.height), 0, 1).astype(np.float32)
        cover = cover * _per_frame(alpha)
        paint = np.asarray(colour, np.float32).reshape(-1, 3)
        for channel in range(3):
            layer = self._frames[:, channel]
            layer += cover * (paint[:, channel, None, None] - layer)

    def pixels(self) -> np.ndarray:
        """uint8 ``[T, 3, H, W]``."""
        return (np.clip(self._frames, 0, 1) * 255 + 0.5).astype(np.uint8)


Scalar = float | np.ndarray


def ellipse(canvas: Canvas, x: Scalar, y: Scalar, wide: Scalar, tall: Scalar) -> np.ndarray:
    """Distance (to first order) to an ellipse with half axes ``wide`` and ``tall``."""
    dx, dy = canvas.x - _per_frame(x), canvas.y - _per_frame(y)
    wide, tall = np.maximum(_per_frame(wide), 1e-4), np.maximum(_per_frame(tall), 1e-4)
    level = _length(dx / wide, dy / tall)
    slope = _length(dx / wide**2, dy / tall**2)
    # level set over its slope
    result: np.ndarray = level * (level - 1) / np.maximum(slope, 1e-6)
    return result


def box(canvas: Canvas, x: Scalar, y: Scalar, half_wide: Scalar, half_tall: Scalar, corner: float) -> np.ndarray:
    """Distance to a box with rounded corners."""
    dx = np.abs(canvas.x - _per_frame(x)) - _per_frame(half_wide) + np.float32(corner)
    dy = np.abs(canvas.y - _per_frame(y)) - _per_frame(half_tall) + np.float32(corner)
    result: np.ndarray = (
        _length(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - np.float32(corner)
    )
    return result


def capsule(canvas: Canvas, x0: Scalar, y0: Scalar, x1: Scalar, y1: Scalar, radius: float) -> np.ndarray:
    """Distance to a line from ``(x0, y0)`` to ``(x1, y1)`` with round ends."""
    ax, ay = canvas.x - _per_frame(x0), canvas.y - _per_frame(y0)
    bx, by = _per_frame(np.asarray(x1) - x0), _per_frame(np.asarray(y1) - y0)
    along = np.clip((ax * bx + ay * by) / (bx**2 + by**2), 0, 1)
    return _length(ax - bx * along, ay - by * along) - np.float32(radius)


def _length(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``hypot`` without its guard against overflow: several times faster."""
    result: np.ndarray = np.sqrt(a * a + b * b)
    return result


def _per_frame(value: Scalar) -> np.ndarray:
    return np.asarray(value, np.float32).reshape(-1, 1, 1)


def _onsets(events: Sequence[Event]) -> np.ndarray:
    return np.array([event.time_s for event in events])


def blinks(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """1 where the eyes are shut: blinks of 0.16 s at random times that have nothing to do with the sound."""
    end = float(times[-1]) + 1.0 if len(times) else 1.0
    centres = np.cumsum(rng.uniform(0.7, 2.5, size=1 + int(end / 0.7)))
    result: np.ndarray = np.clip(1.6 * (1 - np.abs(times[:, None] - centres[None, :]) / 0.08), 0, 1).max(axis=1)
    return result
