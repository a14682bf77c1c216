"""The lists of Emilia, OpenHumanVid and SpeakerVid-5M, as far as their forms are public."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from datamodules.reading.listed_media import ListedMedia, check_unique, json_of, listing_of, published_rows
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import text_of

_EMILIA = ("id", "text", "speaker")
# OpenHumanVid's files: <SHA-256 of the source video>_<first frame>_<last frame>.mp4
_FRAMES = re.compile(r"(.+)_\d+_\d+")
_YOUTUBE_ID = 11


def read_emilia(
    root: Path, media: ListedMedia, caption: str, languages: Sequence[str] | None, min_dnsmos: float | None
) -> list[ClipRecord]:
    """Records of an unpacked part of Emilia: ``<id>.json`` beside ``<id>.mp3``, or ``*.jsonl`` lists of such objects.

    Args:
        root: the folder.
        media: its sounds.
        caption: prompt of every clip.
        languages: those to use, as the set writes them ("en"); None for all.
        min_dnsmos: least value of ``dnsmos``; None for any.

    Raises:
        InputError: there are neither, or an object lacks a field.
    """
    records = []
    for source, item in _emilia_items(root):
        if absent := [name for name in _EMILIA if not isinstance(item.get(name), str)]:
            raise InputError(f"{source} has no {' and no '.join(absent)}; it has {', '.join(item) or 'nothing'}")
        if languages is not None and item.get("language") not in languages:
            continue
        if min_dnsmos is not None and not _is_at_least(item.get("dnsmos"), min_dnsmos, source):
            continue
        path = media.find(item["id"])
        if path is not None:
            name, speaker = item["id"], item["speaker"]
            words = item["text"].strip()
            # Emilia tells speakers apart within each recording: a speaker's clips were cut from one
            records.append(ClipRecord(name, path, caption, speaker, transcript=words or None, speaker=speaker))
    media.report(root)
    if not records:
        raise InputError(f"{root} has no clips of the languages and quality asked for (languages, min_dnsmos)")
    check_unique(records, root)
    return records


def _emilia_items(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    listings = sorted(root.rglob("*.jsonl"))
    for listing in listings:
        for number, line in enumerate(text_of(listing).split("\n"), start=1):
            if line.strip():
                yield f"{listing}, line {number}", _object(line, f"{listing}, line {number}")
    if listings:
        return
    files = sorted(root.rglob("*.json"))
    if not files:
        raise InputError(f"{root} has neither .json files nor .jsonl lists; unpack Emilia's tar files there")
    for file in files:
        yield str(file), _object(text_of(file), str(file))


def _is_at_least(value: Any, least: float, source: str) -> bool:
    if not isinstance(value, int | float):
        raise InputError(f"{source} has no number dnsmos, so min_dnsmos cannot be held; leave min_dnsmos out")
    return value >= least


def read_openhumanvid(
    root: Path, media: ListedMedia, listing: str | None, columns: Mapping[str, str]
) -> list[ClipRecord]:
    """Records of a CSV list of videos and captions.

    The list is sent on request and its columns are not public: what they are called is looked for among usual names, or
    said.

    Args:
        root: the folder.
        media: its videos.
        listing: the list's name in the folder; None for the only CSV file there.
        columns: what the list calls ``video`` (the file's name or path) and ``caption``, where it is no usual name.

    Raises:
        InputError: there is no such list, or its columns are called otherwise (those found are named).
    """
    path = listing_of(root, listing) if listing else _only_csv(root)
    header = text_of(path).split("\n", 1)[0]
    named = [name.strip().strip('"') for name in header.split(",")]
    usual = {"video": ("video", "video_name", "video_path", "path", "file_name", "name"), "caption": _CAPTIONS}
    taken = {}
    for ours, names in usual.items():
        found = columns.get(ours) or next((name for name in names if name in named), None)
        if found is None:
            raise InputError(
                f"{path} has no column that is known to be the {ours}; it has {', '.join(named)}: name one in columns,"
                f" such as {{{ours}: {named[0]}}}"
            )
        taken[ours] = found
    records = []
    for line, row in published_rows(path, tuple(taken.values())):
        stem = Path(row[taken["video"]]).stem
        if not stem or not row[taken["caption"]]:
            raise InputError(f"{path}, line {line}: no {taken['video']} or no {taken['caption']}; remove the row")
        file = media.find(stem)
        if file is not None:
            match = _FRAMES.fullmatch(stem)
            records.append(ClipRecord(stem, file, row[taken["caption"]], match[1] if match else stem))
    media.report(path)
    check_unique(records, path)
    return records


_CAPTIONS = ("caption", "text", "long_caption", "short_caption", "prompt", "description")


def _only_csv(root: Path) -> Path:
    found = sorted(root.glob("*.csv"))
    if len(found) != 1:
        raise InputError(f"{root} holds {len(found)} CSV files; put the published list there, or name it in listing")
    return found[0]


def read_speakervid(
    root: Path, media: ListedMedia, listing: str, caption: str, keys: Mapping[str, str], speaker_pattern: str | None
) -> list[ClipRecord]:
    """Records of the clips that are there of a list of SpeakerVid-5M.

    Public are the list, a JSON object of clip names by video, and that annotations lie in ``raw_labels/anno`` and
    ``merged_anno`` by clip and in ``raw_labels/asr`` by the first three parts of a clip's name; what their fields are
    called is not, so they are named.

    Args:
        root: the folder with the list, the annotations and, below it, the clips cut out and named as the list does.
        media: its videos.
        listing: the list's name.
        caption: prompt of clips whose annotation is not read or not there.
        keys: which fields hold what: ``transcript`` of ``raw_labels/asr``, ``caption`` of ``raw_labels/anno``; what is
            not named is not read.
        speaker_pattern: a regular expression whose first group, matched against the clip's whole name, is its speaker;
            None if nobody knows.

    Raises:
        InputError: the list or an annotation cannot be used, or lacks the field named.
    """
    path = listing_of(root, listing)
    content = json_of(path)
    if not isinstance(content, dict) or not all(isinstance(clips, list) for clips in content.values()):
        raise InputError(f"{path} is not as published, an object of lists of clip names by video")
    records = []
    for clips in content.values():
        for file_name in clips:
            name = str(file_name).removesuffix(".json")
            found = media.find(name)
            if found is None:
                continue
            parts = {"transcript": ("asr", "_".join(name.split("_")[:3])), "caption": ("anno", name)}
            said = {
                ours: _annotation(root / "raw_labels" / folder / f"{stem}.json", keys[ours])
                for ours, (folder, stem) in parts.items()
                if ours in keys
            }
            match = re.fullmatch(speaker_pattern, name) if speaker_pattern else None
            records.append(
                ClipRecord(
                    name,
                    found,
                    said.get("caption") or caption,
                    name[:_YOUTUBE_ID],
                    transcript=said.get("transcript"),
                    speaker=match[1] if match else None,
                )
            )
    media.report(path)
    check_unique(records, path)
    return records


def _annotation(path: Path, key: str) -> str | None:
    """One field of an annotation, None where there is no annotation."""
    if not path.is_file():
        return None
    content = json_of(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), str):
        held = ", ".join(map(str, content)) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path} has no text {key!r}; it has {held or 'nothing'}: name another field in keys")
    return content[key].strip() or None


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source} is not valid JSON ({error}); repair it") from error
    if not isinstance(content, dict):
        raise InputError(f"{source} holds a {type(content).__name__}; it must be one object")
    return content
