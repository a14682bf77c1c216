"""What decides which training clips there are, as plain values that a cache of them keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.prepared.identity import Facts, as_json
from datamodules.reading.records import ClipRecord

_LOOKED_AT = 4096
_OF_EVALUATION = ("language", "subset", "face_boxes")
"""What no encoded clip depends on."""


def facts_of_clips(settings: Mapping[str, Any], records: Sequence[ClipRecord], frame_step: int) -> Facts:
    """What decides which clips there are.

    Args:
        settings: of the data module (`ClipDataModule.clip_settings`).
        records: the training recordings.
        frame_step: frames by which clips may differ in length.
    """
    digest = hashlib.sha256()
    for record in records:
        # not where files lie: a data set may be moved
        facts = {key: value for key, value in asdict(record).items() if key not in _OF_EVALUATION} | {
            name: None if path is None else [path.name, *_content(path)]
            for name, path in (("path", record.path), ("sound", record.sound), ("reference", record.reference))
        }
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    facts = dict(settings) | {"recordings": f"{len(records)} (sha256 {digest.hexdigest()[:12]})"}
    # lengths alike do not depend on it
    return as_json(facts | ({"frame_step": frame_step} if settings["clip"]["min_frames"] is not None else {}))


def _content(path: Path) -> tuple[int, str]:
    """Size of a file and a digest of its middle: a sound that was made louder or cleaner keeps its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, (size - _LOOKED_AT) // 2))
        return size, hashlib.sha256(file.read(_LOOKED_AT)).hexdigest()[:16]
