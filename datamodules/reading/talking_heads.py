"""Public sets of talking heads as they are unpacked: HDTF and VoxCeleb2."""

from __future__ import annotations

import re
from pathlib import Path

from components.errors import InputError
from datamodules.reading.clip_data_module import Split
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import RecordsBySplit

_LISTS: tuple[Split, ...] = ("train", "val", "test")
_VOXCELEB_PARTS: dict[str, Split] = {"dev": "train", "test": "test"}


def read_hdtf(root: Path, caption: str, speaker_pattern: str) -> RecordsBySplit:
    """Records of HDTF (Zhang et al., CVPR 2021): mp4 clips, and lists if there are any.

    Clips lie in ``root/clips`` or in ``root`` itself and are named ``<video>_<index>.mp4`` or, in the public mirror,
    ``<video>_<session>_<first>_<last>.mp4``. ``train.txt``, ``val.txt`` and ``test.txt`` name clips, or videos and
    thereby all clips of them. Without lists no record has a split. ``metadata.csv`` is not read. Clips of a video, for
    statistics and voices, are those whose names are alike but for the numbers at their ends.

    Args:
        root: the unpacked folder.
        caption: prompt of every clip.
        speaker_pattern: regular expression whose first group, matched against a clip's whole name, is its speaker; a
            clip that it does not match has none.

    Raises:
        InputError: there are no clips, a list is empty or names a missing clip, the pattern has no group, or clips have
            captions of their own.
    """
    try:
        pattern = re.compile(speaker_pattern)
    except re.error as error:
        raise InputError(f"speaker_pattern {speaker_pattern!r} is no regular expression ({error})") from error
    if not pattern.groups:
        raise InputError(f"speaker_pattern {speaker_pattern!r} has no group; put the speaker's part in parentheses")
    folder = root / "clips" if (root / "clips").is_dir() else root
    clips = {path.stem: path for path in sorted(folder.glob("*.mp4"))}
    if not clips:
        raise InputError(f"{folder} holds no mp4 clips; set root to a manifest, an HDTF or a VoxCeleb2 folder")

    if captioned := next((path for path in clips.values() if path.with_suffix(".txt").is_file()), None):
        raise InputError(
            f"{captioned} has a caption in {captioned.stem}.txt, which is not read in HDTF's layout; use "
            "datamodules.folder_clips.FolderClips for videos with captions of their own"
        )

    def record(name: str) -> ClipRecord:
        match = pattern.fullmatch(name)
        return ClipRecord(name, clips[name], caption, _possible_videos(name)[0], speaker=match[1] if match else None)

    listings = {split: root / f"{split}.txt" for split in _LISTS if (root / f"{split}.txt").is_file()}
    if not listings:
        return {None: [record(name) for name in clips]}
    by_video: dict[str, list[str]] = {}
    for name in clips:
        for video in _possible_videos(name):
            by_video.setdefault(video, []).append(name)
    found: RecordsBySplit = {}
    for split, listing in listings.items():
        lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise InputError(f"{listing} is empty; it must name one clip per line")
        names: dict[str, None] = {}
        for line in lines:
            name = Path(line).name.removesuffix(".mp4")
            listed = [name] if name in clips else by_video.get(name)
            if listed is None:
                raise InputError(f"{listing} lists {line} but {folder} has no {name}.mp4; unpack it or remove the line")
            names.update(dict.fromkeys(listed))
        found[split] = [record(name) for name in names]
    return found


def _possible_videos(clip: str) -> list[str]:
    """What ``<video>_<index>`` or ``<video>_<session>_<first>_<last>`` may be cut from, shortest first.

    Any part before numbers alone may be the video's name, and the clip's own where no numbers end it.
    """
    parts = clip.split("_")
    lengths = [n for n in range(1, len(parts)) if all(part.isdigit() for part in parts[n:])]
    return ["_".join(parts[:length]) for length in lengths] or [clip]


def read_voxceleb2(root: Path, caption: str, audio_only: bool = False) -> RecordsBySplit:
    """Records of VoxCeleb2 (Chung et al., Interspeech 2018).

    ``{dev,test}/mp4/<speaker>/<video>/<n>.mp4`` are the pictures, ``{dev,test}/aac/<speaker>/<video>/<n>.m4a`` the
    sounds (an mp4's own sound is used where that is missing); "dev" is for training.

    Args:
        root: the unpacked folder.
        caption: prompt of every clip.
        audio_only: read the sounds alone.

    Raises:
        InputError: neither part holds any clip.
    """
    found: RecordsBySplit = {}
    for part, split in _VOXCELEB_PARTS.items():
        pictures = _utterances(root / part / "mp4", "mp4")
        sounds = _utterances(root / part / "aac", "m4a")
        names = sorted({**pictures, **sounds} if audio_only else pictures)
        records = []
        for name in names:
            path = sounds.get(name, pictures.get(name)) if audio_only else pictures[name]
            if path is not None:
                speaker, video, _ = name.split("/")
                sound = None if audio_only else sounds.get(name)
                records.append(ClipRecord(name, path, caption, f"{speaker}/{video}", sound=sound, speaker=speaker))
        if records:
            found[split] = records
    if not found:
        raise InputError(
            f"{root} holds no clips; VoxCeleb2 has {{dev,test}}/mp4/<speaker>/<video>/<n>.mp4"
            " and {dev,test}/aac/<speaker>/<video>/<n>.m4a"
        )
    return found


def _utterances(folder: Path, suffix: str) -> dict[str, Path]:
    """Files by ``<speaker>/<video>/<n>``."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob(f"*/*/*.{suffix}"))
    }
