"""A small set of real recordings in AVSync15's layout."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from components.media.clock import ClipShape
from components.media.writer import write_mp4

FPS, RATE = 24, 16000


def clip_of(settings: dict[str, Any], **defaults: Any) -> ClipShape:
    """A clip of the ``defaults``, changed by those of the ``settings`` that describe clips; these are taken out."""
    changes = {field.name: settings.pop(field.name) for field in fields(ClipShape) if field.name in settings}
    return ClipShape(**{**defaults, **changes})


def write_recording(path: Path, seconds: float, seed: int, sound: bool = True, loudness: float = 0.5) -> None:
    """Frame k is grey level ``4 * (k mod 60)``; the sound is a tone of its own pitch."""
    count = round(seconds * FPS)
    grey = (torch.arange(count) % 60 * 4).to(torch.uint8)
    video = grey[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    times = torch.arange(round(seconds * RATE)) / RATE
    audio = loudness * torch.sin(2 * torch.pi * (300 + 70 * seed) * times) if sound else None
    write_mp4(path, video, FPS, audio, RATE, crf=4)


@pytest.fixture
def recording() -> Callable[..., None]:
    """Writes one recording."""
    return write_recording


@pytest.fixture(scope="session")
def avsync_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven training and three test recordings of 3 s in two classes."""
    root = tmp_path_factory.mktemp("AVSync15")
    names = {"train": [], "test": []}
    for split, count in (("train", 7), ("test", 3)):
        for k in range(count):
            name = f"{('dog_barking', 'hammering')[k % 2]}/{split}_{k}.mp4"
            write_recording(root / "videos" / name, 3.0, k)
            names[split].append(name)
        (root / f"{split}.txt").write_text("\n".join(names[split]) + "\n")
    (root / "class_mapping.json").write_text(json.dumps({"dog_barking": "dog barking", "hammering": "hammering"}))
    return root
