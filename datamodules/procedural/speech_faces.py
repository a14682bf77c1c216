"""Faces of different speakers whose mouths open as far as their voices are loud.

Lengths are in units of the picture's height, as in ``procedural_scenes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.procedural.scenes import Canvas, blinks, box, ellipse, hsv
from datamodules.procedural.speech_sounds import Syllable, loudness

# In this order the first few are far apart, too.
_COLOURS = (
    *(("green", 0.33), ("red", 0.0), ("blue", 0.6), ("yellow", 0.16)),
    *(("purple", 0.77), ("cyan", 0.49), ("orange", 0.08), ("pink", 0.9)),
)
_HAIRS = (("black", 0.1), ("white", 0.9))
MAX_SPEAKERS = len(_COLOURS) * len(_HAIRS)
# Half width and half height of the fully open mouth.
_MOUTHS = {"a": (0.15, 0.15), "i": (0.2, 0.065), "o": (0.085, 0.13), "e": (0.18, 0.1)}
_CLOSED_WIDE = 0.12
_INSTANTS = 16


@dataclass(frozen=True)
class Face:
    """What a speaker looks like.

    Attributes:
        colour: name of the skin's colour.
        hue: the skin's hue in turns.
        hair: name of the hair's colour.
        hair_value: brightness of the hair.
        roundness: half width of the head by its half height.
    """

    colour: str
    hue: float
    hair: str
    hair_value: float
    roundness: float

    @property
    def caption(self) -> str:
        """The face in words."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} face with {self.hair} hair"


def face_of(speaker: int) -> Face:
    """The speaker's face."""
    colour, hue = _COLOURS[speaker % len(_COLOURS)]
    hair, value = _HAIRS[(speaker // len(_COLOURS) + speaker) % len(_HAIRS)]
    return Face(colour, hue, hair, value, (0.78, 0.9, 1.0)[speaker % 3])


def opening(num_frames: int, fps: float, syllables: Sequence[Syllable]) -> np.ndarray:
    """How far the mouth is open in each frame, ``[T]`` in [0, 1]: the mean loudness while the frame is on screen."""
    # sixteen instants a frame: a syllable may begin anywhere within it
    instants = (np.arange(num_frames * _INSTANTS) + 0.5) / (_INSTANTS * fps)
    result: np.ndarray = loudness(instants, syllables).reshape(num_frames, _INSTANTS).mean(axis=1)
    return result


def draw_face(
    face: Face,
    syllables: Sequence[Syllable],
    num_frames: int,
    fps: float,
    height: int,
    width: int,
    rng: np.random.Generator,
    still: bool = False,
) -> np.ndarray:
    """A speaking face: uint8 ``[T, 3, H, W]``.

    Args:
        face: whose.
        syllables: what is said.
        num_frames: length of the clip.
        fps: frames per second.
        height: rows.
        width: columns.
        rng: draws place, wall and blinks.
        still: nothing moves, not even the eyelids.
    """
    opened = opening(num_frames, fps, syllables)
    x, y = rng.uniform(-0.04, 0.04), rng.uniform(0.47, 0.51)
    skin = hsv(face.hue, rng.uniform(0.5, 0.6), rng.uniform(0.92, 1.0))
    wall = hsv(rng.uniform(), 0.3, rng.uniform(0.15, 0.35))
    ends = (np.arange(num_frames) + 0.5) / fps
    eye_open = np.ones(num_frames) if still else 1 - blinks(ends, rng)
    mouth_wide, mouth_tall = _mouth(ends, fps, syllables)
    tall, wide = 0.44, 0.44 * face.roundness

    canvas = Canvas(height, width)
    canvas.gradient(wall, tuple(1.3 * channel for channel in wall))
    canvas.draw(ellipse(canvas, x, y - 0.05, wide + 0.03, tall + 0.02), (face.hair_value,) * 3)
    canvas.draw(ellipse(canvas, x, y + 0.04, wide, tall - 0.02), skin)
    canvas.draw(box(canvas, x, y - 0.36, wide * 0.6, 0.06, 0.05), (face.hair_value,) * 3)
    canvas.animate(num_frames)
    for side in (-1, 1):
        eye_x, eye_y = x + side * 0.17, y - 0.12
        canvas.draw(ellipse(canvas, eye_x, eye_y, 0.075, 0.006 + 0.05 * eye_open), (1, 1, 1))
        canvas.draw(ellipse(canvas, eye_x, eye_y, 0.035, 0.006 + 0.04 * eye_open), (0.1, 0.1, 0.15))
    mouth_y = y + 0.2
    # twice as fast as the height: the vowel's shape shows in a mouth half open
    wide_now = _CLOSED_WIDE + (mouth_wide - _CLOSED_WIDE) * np.minimum(1, 2 * opened)
    canvas.draw(ellipse(canvas, x, mouth_y, wide_now, 0.012 + mouth_tall * opened), (0.1, 0.0, 0.03))
    return canvas.pixels()


def _mouth(times: np.ndarray, fps: float, syllables: Sequence[Syllable]) -> tuple[np.ndarray, np.ndarray]:
    """Half width and half height of the open mouth by the vowel that is spoken, or was last: two ``[T]``."""
    if not syllables:
        return np.full(len(times), _CLOSED_WIDE), np.zeros(len(times))
    onsets = np.array([syllable.time_s for syllable in syllables])
    # the vowel of the frame in which a syllable begins is the new one
    last = np.maximum(np.searchsorted(onsets, times + 0.5 / fps) - 1, 0)
    shapes = np.array([_MOUTHS[syllable.vowel] for syllable in syllables])[last]
    return shapes[:, 0], shapes[:, 1]
