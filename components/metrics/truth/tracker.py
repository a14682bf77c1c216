"""Where ball, mallet head and mouth of a rendered scene are in every frame, by colour and shape alone.

The first frame is the reference: there everything rests where the scene's geometry says, and gives its colour. In
every frame a pixel belongs to the object as far as it is closer to the object's colour than the background is; an
object is found where such pixels fill its shape and its surroundings are none of it. So a flash of any colour is no
ball: the ball has left the place where it rested, and has its size, its colour and its edge where it is now.

Lengths are in units of the picture's height, x from its middle, y from its top, as the scenes are drawn.

Legend for shapes: T frames, H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

Thing = Literal["ball", "mallet", "mouth"]


@dataclass(frozen=True)
class Track:
    """A thing of a scene over the frames of a clip.

    Attributes:
        thing: what is tracked.
        found: bool ``[T]``, whether it is seen.
        position: float ``[T, 2]``, x and y of its centre; that of a mouth is where it rests.
        progress: float ``[T]``, how far it is on its way: 0 at rest, about 1 in contact, or how far a mouth is open.
            NaN where it is not found.
    """

    thing: Thing
    found: Tensor
    position: Tensor
    progress: Tensor


def thing_of(caption: str) -> Thing | None:
    """What moves in the scene that a caption names, None for any other scene.

    Example:
        >>> thing_of("a green face with black hair")
        'mouth'
    """
    words = caption.lower().split()
    for word, thing in _NAMED.items():
        if word in words:
            return thing
    return None


def track(video: Tensor, first: Tensor, thing: Thing) -> Track:
    """Tracks the thing of a clip.

    Args:
        video: ``[T, 3, H, W]`` in [0, 1].
        first: ``[3, H, W]`` the real first frame, in which everything rests.
        thing: what the scene is known to show.
    """
    video, first = video.float(), first.float()
    return _mouth(video, first) if thing == "mouth" else _disc(video, first, thing)


def path_error(seen: Track, real: Track) -> float:
    """Mean distance from where the real thing is, in units of its way from rest to contact (a mouth's: wide open).

    A frame in which it is not found counts as a whole way off.

    Args:
        seen: track of the clip that is judged.
        real: track of the real clip.
    """
    if seen.thing == "mouth":
        apart = (seen.progress - real.progress).abs()
    else:
        apart = (seen.position - real.position).norm(dim=1) / _FALL[seen.thing]
    return torch.where(seen.found, apart, 1.0)[real.found].mean().item()


_NAMED: dict[str, Thing] = {"ball": "ball", "mallet": "mallet", "face": "mouth"}

# Where the scenes let things rest (datamodules.procedural.scenes), with some room.
_RESTS = {"ball": ((-0.22, 0.22), (0.18, 0.28)), "mallet": ((-0.2, 0.2), (0.1, 0.24))}
_RADII = {"ball": (0.11, 0.175, 0.01), "mallet": (0.08, 0.115, 0.01)}
_FALL = {"ball": 0.49, "mallet": 0.48}  # from rest to contact, a mean for the ball whose floor and size vary
_ACROSS = 0.26  # how far a mallet's head moves sideways
_RING = 0.06  # width of the surroundings that must be free
_STILL_THERE = 0.6  # of the first frame's response: what rests has not left
_SEEN = 0.45  # the same, anywhere else
_COLUMN = 0.12  # how far from its path a thing may be and still be on it
_MOUTH = (0.2, (0.6, 0.8))  # half width and rows in which a mouth's centre rests
_MOUTH_DARK = (0.16, 0.02, 0.045)  # between the insides of the two kinds of mouth
_MOUTH_AREA = 0.026  # of a wide open mouth: half axes 0.1 and 0.105, less its tongue
_MOUTH_REACH = (0.22, 0.19)  # half axes of what is looked at around the centre
_SAME_SKIN = 0.2  # largest change of a skin that is still the same
_ASIDE = 0.12  # squared distance from the way between skin and dark, by its squared length
_STILL_DARK = 0.3  # of how dark it was
_MOUTH_OFF = 0.07  # how far the middle of what is dark may be from the mouth's


def _disc(video: Tensor, first: Tensor, thing: Thing) -> Track:
    """A disc in one colour: ball or mallet head."""
    x, y = _grid(*video.shape[-2:])
    rest, radius, colour, background = _resting(first, thing, x, y)
    kernel, surroundings = _shape(radius, len(y))
    alike = _alike(torch.cat((first[None], video)), colour, background)
    response = _response(alike, kernel, surroundings)
    near = (x - rest[0]).square() + (y - rest[1]).square() <= (0.7 * radius) ** 2
    at_rest = response.masked_fill(~near, -math.inf)
    full = at_rest[0].max()
    anywhere = response.flatten(1).max(1)
    resting = at_rest.flatten(1).max(1)
    # a thing that is still where it rested has not moved, whatever else looks like it
    stays = resting.values >= _STILL_THERE * full
    place = torch.where(stays, resting.indices, anywhere.indices)
    found = (stays | (anywhere.values >= _SEEN * full))[1:]
    position = _centres(alike, place, radius, x, y)[1:]
    moved = position - torch.tensor(rest)
    progress = moved[:, 1] / _FALL[thing]
    # a mallet's head swings on an arc, the ball falls straight
    wanted = -math.copysign(_ACROSS, rest[0]) * progress if thing == "mallet" else torch.zeros_like(progress)
    found = found & ((moved[:, 0] - wanted).abs() <= _COLUMN)
    return Track(thing, found, position, torch.where(found, progress, torch.nan))


def _resting(first: Tensor, thing: Thing, x: Tensor, y: Tensor) -> tuple[tuple[float, float], float, Tensor, Tensor]:
    """Centre, radius and colour ``[3]`` of the disc at rest, and the background ``[3, H, 1]`` of each row."""
    side = x[0].abs() > x[0].abs().max() - 0.08
    background = first[:, :, side].median(dim=2, keepdim=True).values
    (left, right), (top, bottom) = _RESTS[thing]
    within = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    # the disc is what differs from the wall: the fullest place of the right size first, then its colour
    difference = (first - background).square().sum(0).sqrt()
    difference = difference / difference[y < 0.5].max().clamp(min=1e-6)
    best: tuple[float, int, float] | None = None
    smallest, largest, step = _RADII[thing]
    for radius in torch.arange(smallest, largest, step).tolist():
        score = _response(difference[None], *_shape(radius, len(y)))[0].masked_fill(~within, -math.inf)
        if best is None or score.max().item() > best[0]:
            best = (score.max().item(), int(score.argmax()), radius)
    assert best is not None
    _, place, radius = best
    row, column = divmod(place, x.shape[1])
    inside = (x - x[row, column]).square() + (y - y[row, column]).square() <= (0.8 * radius) ** 2
    colour = first[:, inside].median(dim=1).values
    alike = _alike(first[None], colour, background)
    centre = _centres(alike, torch.tensor([place]), radius, x, y)[0]
    return (centre[0].item(), centre[1].item()), radius, colour, background


def _alike(video: Tensor, colour: Tensor, background: Tensor) -> Tensor:
    """How much closer each pixel is to ``colour`` ``[3]`` than the background is: ``[T, H, W]`` in [0, 1]."""
    apart = (colour[:, None, None] - background).square().sum(0)
    error = (video - colour[:, None, None]).square().sum(1)
    return (1 - error / apart.clamp(min=0.01)).clamp(min=0)


def _shape(radius: float, height: int) -> tuple[Tensor, Tensor]:
    """Kernels of a disc and of the ring around it, each of sum 1: ``[K, K]``."""
    reach = math.ceil((radius + _RING) * height) + 1
    offset = torch.arange(-reach, reach + 1) / height
    distance = (offset[:, None].square() + offset[None].square()).sqrt()
    disc = (0.5 + (radius - distance) * height).clamp(0, 1)
    ring = (0.5 + (radius + _RING - distance) * height).clamp(0, 1)
    # the pixel that the edge runs through belongs to neither
    ring = ring - (0.5 + (radius + 1 / height - distance) * height).clamp(0, 1)
    return disc / disc.sum(), ring / ring.sum()


def _response(alike: Tensor, disc: Tensor, ring: Tensor) -> Tensor:
    """How well a disc of this size sits at every pixel: mean inside less mean around, ``[T, H, W]``."""
    reach = len(disc) // 2
    padded = pad(alike[:, None], (reach,) * 4)
    return conv2d(padded, (disc - ring)[None, None])[:, 0]


def _centres(alike: Tensor, place: Tensor, radius: float, x: Tensor, y: Tensor) -> Tensor:
    """Centre of mass of what is alike around the pixels ``place`` ``[T]``: ``[T, 2]``, finer than a pixel."""
    at_x, at_y = x.flatten()[place][:, None, None], y.flatten()[place][:, None, None]
    weight = alike * ((x - at_x).square() + (y - at_y).square() <= (1.3 * radius) ** 2)
    total = weight.sum((1, 2)).clamp(min=1e-6)
    return torch.stack([(weight * axis).sum((1, 2)) / total for axis in (x, y)], dim=1)


def _mouth(video: Tensor, first: Tensor) -> Track:
    """How far a mouth is open: what is dark as its inside, beyond the line it is when shut."""
    frames, _, height, width = video.shape
    x, y = _grid(height, width)
    half, (top, bottom) = _MOUTH
    below = (x.abs() <= half) & (y >= top) & (y <= bottom)
    # skin: what most of the lower face is
    skin = first[:, below].median(dim=1).values
    shut = _darkness(first[None], skin)[0]
    weight = (shut * below).square()
    centre = [((weight * axis).sum() / weight.sum().clamp(min=1e-6)).item() for axis in (x, y)]
    level = torch.sqrt(((x - centre[0]) / _MOUTH_REACH[0]).square() + ((y - centre[1]) / _MOUTH_REACH[1]).square())
    window = level <= 1
    around = (level > 1) & (level <= 1.35) & ((first - skin[:, None, None]).abs().amax(0) < _SAME_SKIN)
    # light that changes on the skin around is no mouth; where none is left to compare with, nothing is taken off
    light = (video - first)[:, :, around].median(dim=2).values if around.any() else torch.zeros(frames, 3)
    dark = _darkness(video - light[..., None, None], skin)
    grown = (dark - shut) * window  # [T, H, W]
    progress = grown.sum((1, 2)) / height**2 / _MOUTH_AREA
    # what is dark has the mouth's middle, and is surrounded by skin
    grown = grown.clamp(min=0)
    mass = grown.sum((1, 2)).clamp(min=1e-6)
    off_x = (grown * (x - centre[0])).sum((1, 2)) / mass
    off_y = (grown * (y - centre[1])).sum((1, 2)) / mass
    found = light.abs().amax(1) <= _SAME_SKIN
    central = (off_x.abs() <= _MOUTH_OFF / 2) & (off_y.abs() <= _MOUTH_OFF)
    found = found & (central | (progress < 0.25))
    # open or shut, it is dark where it was at first
    found = found & ((dark * weight).sum((1, 2)) >= _STILL_DARK * (shut * weight).sum())
    position = torch.tensor(centre).expand(frames, 2)
    return Track("mouth", found, position, torch.where(found, progress, torch.nan))


def _darkness(video: Tensor, skin: Tensor) -> Tensor:
    """How much of each pixel is the inside of a mouth, 0 off the way from ``skin`` ``[3]`` to it: ``[T, H, W]``."""
    way = torch.tensor(_MOUTH_DARK) - skin
    length = way.square().sum().clamp(min=0.01)
    off = video - skin[:, None, None]
    share = (off * way[:, None, None]).sum(1) / length
    aside = (off - share[:, None] * way[:, None, None]).square().sum(1) / length
    # steeper about one half: shades of the skin are no part of a mouth
    return (0.5 + 2 * (share - 0.5)).clamp(0, 1) * (aside < _ASIDE)


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """X and y of every pixel's centre: two ``[H, W]``."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5 - width / 2) / height
    return x.expand(height, width), y[:, None].expand(height, width)
