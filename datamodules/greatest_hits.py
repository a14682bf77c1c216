"""The Greatest Hits: objects struck and scratched with a drumstick (Owens et al., 2016, arXiv 1512.08512)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from components.errors import InputError
from components.weights.named_files import names_files
from datamodules.reading.clip_data_module import ClipDataModule, Split
from datamodules.reading.records import ClipRecord

Track = Literal["denoised", "mic"]
_THUMB_HEIGHT = 256
_ACTIONS = ("hit", "scratch", "None")
# folders that the archives make when they are unpacked
_NESTED = ("vis-data-256", "vis-data", "vis-data-256/vis-data-256", "vis-data/vis-data")
_VIDEO_NAME = re.compile(r"(?P<id>.+)_(?P<track>denoised|mic)(_thumb)?\.mp4")


@names_files("root")
class TheGreatestHits(ClipDataModule):
    """The public release in each of its forms, as it is unpacked.

    ::

        vis-data/       <id>_denoised.mp4  <id>_mic.mp4  <id>_denoised.wav  <id>_mic.wav  <id>_times.txt
        vis-data-256/   <id>_denoised_thumb.mp4  <id>_denoised.wav  <id>_mic.wav  <id>_times.txt
        TheGreatestHits/videos/<id>_denoised_thumb.mp4      (AVSyncD's layout; times and sounds are optional)

    each with ``train.txt``, ``test.txt`` and perhaps ``val.txt`` beside or (AVSyncD) above the recordings, one id or
    file name per line. Where a recording is there in both sizes, an id stands for the smallest that has enough rows; a
    file name decides. Without a validation list, validation uses the test list. Recordings last about 35 s:
    training cuts random clips out of them, evaluation ``clips_per_video`` evenly spaced ones.

    The true onsets come from the times files (``seconds material action reaction`` per line); clips of recordings
    that have none (possible in AVSyncD's layout only) have unknown onsets.

    Args:
        root: the unpacked folder or the one above it.
        prompt: the text prompt of every recording.
        track: which microphone is heard: "denoised" (the recorder's track after denoising) or "mic" (the camera's).
        sound: "auto" takes the track's wav file where there is one and the video file's own sound otherwise, "wav" and
            "mp4" insist on one of them.
        actions: which kinds of contact count as onsets: "hit", "scratch".
        times: another folder with the times files, or None to look beside the recordings.
        **kwargs: see ``ClipDataModule``.
    """

    def __init__(
        self,
        root: str,
        prompt: str = "hitting with a stick",
        track: Track = "denoised",
        sound: Literal["auto", "wav", "mp4"] = "auto",
        actions: Sequence[Literal["hit", "scratch"]] = ("hit", "scratch"),
        times: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if wrong := [action for action in actions if action not in ("hit", "scratch")]:
            raise InputError(f"actions has the unknown {wrong[0]!r}; choose from hit and scratch")
        if not actions:
            raise InputError("actions is empty; name at least one of hit and scratch")
        self.root, self.prompt, self.track, self.sound = Path(root), prompt, track, sound
        self.actions, self.times = frozenset(actions), None if times is None else Path(times)

    def records(self, split: Split) -> list[ClipRecord]:
        """The recordings named in the split's list.

        Raises:
            InputError: the folder, a list, a listed recording, its sound or its times are missing or malformed.
        """
        folder = _unpacked_folder(self.root)
        listing = folder / f"{split}.txt"
        if split == "val" and not listing.is_file():
            listing = folder / "test.txt"
        if not listing.is_file():
            raise InputError(f"{listing} does not exist; root must be a folder with train.txt and test.txt")
        # AVSyncD's layout keeps recordings in a folder of their own
        videos = folder / "videos"
        names = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not names:
            raise InputError(f"{listing} is empty; it must list one id or file name per line")
        return [self._record(listing, name, videos if videos.is_dir() else folder) for name in names]

    def _record(self, listing: Path, name: str, folder: Path) -> ClipRecord:
        video, identity, track = self._video(listing, name, folder)
        onsets = self._onsets(folder, identity)
        return ClipRecord(identity, video, self.prompt, identity, onsets, sound=self._sound(video, identity, track))

    def _video(self, listing: Path, name: str, folder: Path) -> tuple[Path, str, str]:
        """A listed recording's video file, its id, and which track the file carries."""
        if name.endswith(".mp4"):
            parts = _VIDEO_NAME.fullmatch(Path(name).name)
            if parts is None:
                raise InputError(f"{listing} lists {name}; file names must read <id>_denoised.mp4 or alike")
            if not (folder / name).is_file():
                raise InputError(f"{listing} lists {name} but {folder / name} does not exist; remove the line")
            return folder / name, parts["id"], parts["track"]
        other = "mic" if self.track == "denoised" else "denoised"
        # the small pictures decode faster
        endings = ("_thumb.mp4", ".mp4") if self.clip.height <= _THUMB_HEIGHT else (".mp4", "_thumb.mp4")
        # both microphones' files show the same picture; which sound counts is decided by `_sound`
        for track in (self.track, other):
            for ending in endings:
                video = folder / f"{name}_{track}{ending}"
                if video.is_file():
                    return video, name, track
        raise InputError(
            f"{listing} lists {name} but {folder} has no {name}_{self.track}.mp4 or {name}_{self.track}_thumb.mp4;"
            " unpack it or remove the line"
        )

    def _sound(self, video: Path, identity: str, carried: str) -> Path | None:
        """The file with the wanted track, None where it is the video file itself."""
        wav = video.with_name(f"{identity}_{self.track}.wav")
        if self.sound != "mp4" and wav.is_file():
            return wav
        if self.sound == "wav" or carried != self.track:
            raise InputError(
                f"{wav} does not exist and {video.name} is not to be heard (sound: {self.sound}, track: {self.track});"
                " unpack it or choose another sound or track"
            )
        return None

    def _onsets(self, folder: Path, identity: str) -> tuple[float, ...] | None:
        path = (self.times or folder) / f"{identity}_times.txt"
        if not path.is_file():
            # only AVSyncD's layout may come without times
            if self.times is None and folder.name == "videos":
                return None
            raise InputError(f"{path} does not exist; unpack it or remove {identity} from the list")
        return read_times(path, self.actions)


def read_times(path: Path, actions: Collection[str] = ("hit", "scratch")) -> tuple[float, ...]:
    """Onsets in seconds out of a times file, ascending, each time once.

    Contacts count whatever their material, "None" included, which stands for an unknown one; the action "None" marks
    what no contact caused and never counts.

    Args:
        path: lines ``seconds material action reaction``.
        actions: the actions that count.

    Raises:
        InputError: a line is malformed; names file and line.
    """
    found = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4:
            raise InputError(
                f"{path}, line {number}: {line.strip()!r} has {len(fields)} fields;"
                " it must read: seconds material action reaction"
            )
        time_s = _seconds(fields[0])
        if time_s is None:
            raise InputError(f"{path}, line {number}: {fields[0]!r} is no time in seconds; repair the line")
        # the action "None" is known too: a line of it is no mistake, but never counts
        if fields[2] not in _ACTIONS:
            raise InputError(f"{path}, line {number}: unknown action {fields[2]!r}; it must be hit, scratch or None")
        if fields[2] in actions:
            found.add(time_s)
    return tuple(sorted(found))


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _unpacked_folder(root: Path) -> Path:
    """The folder with the lists: the root itself or one that the archive makes inside it."""
    if not root.is_dir():
        raise InputError(f"the data folder {root} does not exist; set root to the unpacked Greatest Hits folder")
    for folder in (root, *(root / inner for inner in _NESTED)):
        if (folder / "train.txt").is_file() or (folder / "test.txt").is_file():
            return folder
    return root
