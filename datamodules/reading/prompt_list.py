"""Lists of prompts without videos, in Harmony-Bench's form or under a manifest's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from components.errors import InputError
from datamodules.reading.folder import FILE_COLUMNS, under_our_names
from datamodules.reading.named_media import NamedMedia
from datamodules.reading.speech_manifest import Row, rows_of

SUBSETS = ("ambient", "speech", "complex")
"""Of Harmony-Bench (arXiv 2511.21579): sounds without words, words alone, both."""

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_SPOKEN = "spoken word "
_OURS = {"video caption": "caption", "audio caption": "audio_caption", "spoken word": "transcript"}
_COLUMNS = (
    *("id", "subset", "language", "caption", "audio_caption", "transcript", "reference_image", "reference_audio"),
    *("speaker", "split"),
)


@dataclass(frozen=True)
class Prompt:
    """What a clip is asked for by.

    Attributes:
        id: its name, which is that of the generated file.
        caption: what is seen.
        scene: what is heard beside words, or None.
        transcript: the words that are spoken, or None.
        language: of these (``en``, ``zh``), or None.
        subset: the part of the benchmark, or None.
        image: the first frame, or None.
        reference: another utterance of the voice to speak with, or None.
        video_id: the recording it was cut from; None where it stands for itself.
    """

    id: str
    caption: str
    scene: str | None = None
    transcript: str | None = None
    language: str | None = None
    subset: str | None = None
    image: Path | None = None
    reference: Path | None = None
    video_id: str | None = None


def picture_of(folder: Path, name: str) -> Path:
    """The picture of a folder that is called after a prompt.

    Raises:
        InputError: there is none.
    """
    for suffix in _IMAGES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise InputError(f"{folder} has no picture {name} ({', '.join(_IMAGES)}); every prompt needs its first frame")


def read_prompts(path: Path, media: NamedMedia, of_files: bool = False) -> list[Prompt]:
    """Prompts of a ``.jsonl`` or ``.csv`` file.

    Columns are ``id`` (else the row's number, four digits), ``video caption``, ``audio caption``, ``spoken word en`` or
    ``spoken word zh`` (any language's code), which are Harmony-Bench's, or a manifest's ``caption``,
    ``audio_caption``, ``transcript`` and ``language``; and ``subset``, ``reference_image``, ``reference_audio``.

    Args:
        path: the list.
        media: the files that it may name.
        of_files: it is a manifest of generated files, which rows name (``video``, ``file_name``, ``path`` or ``file``);
            without an id a clip is called after its file. Nothing need be said of it, and what is no prompt's column
            (``recording`` apart) is passed over.

    Raises:
        InputError: a row cannot be used; names it.
    """
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, (line, fields) in enumerate(rows_of(path)):
        source = f"{path}, line {line}"
        prompt = _of_file(source, media, fields) if of_files else _asked(source, media, fields, f"{number:04d}")
        if prompt.id in seen:
            raise InputError(
                f"{source}: the row repeats the id {prompt.id!r} of line {seen[prompt.id]}; ids must be unique"
            )
        seen[prompt.id] = line
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} has no rows; it must hold one prompt per row")
    return prompts


def is_prompt_list(path: Path) -> bool:
    """Whether the first row of a list names no media, so that prompts are all that is known."""
    row: Mapping[str, Any] = next((fields for _, fields in rows_of(path)), {})
    return not any(row.get(name) for name in ("audio", *FILE_COLUMNS))


def _under_our_names(source: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    ours: dict[str, Any] = {}
    for name, value in fields.items():
        if value in (None, ""):
            continue
        key = _OURS.get(name, name)
        if name.startswith(_SPOKEN):
            key, language = "transcript", name.removeprefix(_SPOKEN)
            if ours.setdefault("language", language) != language:
                raise InputError(f"{source}: the row has words in {ours['language']} and in {language}; keep one")
        if key not in _COLUMNS:
            raise InputError(f"{source}: the row has the unknown column {name!r}; the columns are {_names()}")
        if key in ours and key != "language":
            raise InputError(f"{source}: the row says the {key} twice; keep one of the columns")
        if key == "language" and ours.get(key, value) != value:
            raise InputError(f"{source}: the row has words in {ours[key]} and the language {value}; correct one")
        ours[key] = value
    return ours


def _names() -> str:
    return ", ".join((*_COLUMNS, *_OURS, f"{_SPOKEN}en", f"{_SPOKEN}zh"))


def _asked(source: str, media: NamedMedia, fields: Mapping[str, Any], name: str) -> Prompt:
    row = Row(source, media, _under_our_names(source, fields))
    prompt = _prompt(row, name)
    if not prompt.caption:
        raise row.error("has neither a video caption nor an audio caption nor spoken words; it must have one")
    return prompt


def _of_file(source: str, media: NamedMedia, fields: Mapping[str, Any]) -> Prompt:
    file = next((value for column in FILE_COLUMNS if (value := fields.get(column))), None)
    if not isinstance(file, str):
        raise InputError(f"{source}: the row names no file; give it a column {FILE_COLUMNS[0]}")
    said = under_our_names(fields, {}, source)
    known = {name: value for name, value in said.items() if name in _COLUMNS}
    of_benchmark = {name: value for name, value in fields.items() if name in _OURS or name.startswith(_SPOKEN)}
    row = Row(source, media, _under_our_names(source, {**known, **of_benchmark}))
    return replace(_prompt(row, str(PurePosixPath(file).with_suffix(""))), video_id=str(said.get("recording") or file))


def _prompt(row: Row, name: str) -> Prompt:
    caption, scene, words = row.text("caption"), row.text("audio_caption"), row.text("transcript")
    return Prompt(
        id=row.text("id") or name,
        caption=caption or scene or words or "",
        scene=scene,
        transcript=words,
        language=row.text("language"),
        subset=row.text("subset"),
        image=row.file("reference_image"),
        reference=row.file("reference_audio"),
    )
