"""AVSync15: fifteen classes of actions that are seen and heard (Zhang et al., 2024, arXiv 2403.05659)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.weights.named_files import names_files
from datamodules.reading.clip_data_module import ClipDataModule, Split
from datamodules.reading.records import ClipRecord


@names_files("root")
class AVSync15(ClipDataModule):
    """The public release as it is unpacked.

    ::

        root/videos/<class>/<name>.mp4
        root/train.txt  root/test.txt   lines "<class>/<name>.mp4"
        root/class_mapping.json         {"<class>": "prompt"}
        root/onsets.json                optional: {"<class>/<name>.mp4": [seconds, ...]}

    The release has no validation list; validation uses the test list.

    Args:
        root: the unpacked folder.
        **kwargs: see ``ClipDataModule``.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)

    def records(self, split: Split) -> list[ClipRecord]:
        """The recordings named in ``train.txt`` or ``test.txt``."""
        return read_avsync15(self.root, "train" if split == "train" else "test")


def read_avsync15(root: Path, split: str) -> list[ClipRecord]:
    """Records of one list of a folder in AVSync15's layout.

    Raises:
        InputError: the folder, the list, a listed file or a class's prompt is missing, or the list is empty.
    """
    if not root.is_dir():
        raise InputError(f"the data folder {root} does not exist; set root to the unpacked AVSync15 folder")
    listing = root / f"{split}.txt"
    if not listing.is_file():
        raise InputError(f"{listing} does not exist; root must be a folder with train.txt, test.txt and videos/")
    names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise InputError(f"{listing} is empty; it must list one <class>/<name>.mp4 per line")
    prompts = _read_json(root / "class_mapping.json")
    truth = _read_json(root / "onsets.json") if (root / "onsets.json").is_file() else {}
    records = []
    for name in names:
        path = root / "videos" / name
        label = name.split("/")[0]
        if label not in prompts:
            raise InputError(f"{root / 'class_mapping.json'} has no prompt for the class {label!r} of {name}; add it")
        if not path.is_file():
            raise InputError(f"{listing} lists {name} but {path} does not exist; unpack it or remove the line")
        stem = name.removesuffix(path.suffix)
        # not listed: unknown, which is not the same as none
        onsets = tuple(float(onset) for onset in truth[name]) if name in truth else None
        records.append(ClipRecord(stem, path, str(prompts[label]), stem, onsets))
    return records


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; the AVSync15 layout needs it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); repair it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; it must hold one object of names and values")
    return content
