"""Public lists of prompts to generate from and to be scored by: Verse-Bench, JavisBench and Harmony-Bench's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import InputError
from components.media.clock import ClipShape
from components.weights.named_files import names_files
from components.weights.pretrained import located
from datamodules.image_audio_pairs import ImageAudioPairs
from datamodules.prompt_clips import PromptClips
from datamodules.reading.listed_media import json_of, published_rows
from datamodules.reading.named_media import NamedMedia
from datamodules.reading.prompt_list import Prompt, picture_of, read_prompts

_SETS = ("set1", "set2", "set3")


@names_files("root")
class VerseBench(ImageAudioPairs):
    """Verse-Bench (Wang et al., 2025, arXiv 2509.06155): 600 first frames with prompts, to ``predict`` from.

    ::

        root/{set1,set2,set3}/<name>.jpg
        root/{set1,set2,set3}/<name>.json    {"video_prompt": ..., "audio_prompt": [...],
                                              "speech_prompt": {"speaker": ..., "text": ...}}

    The caption is the video prompt, the scene what is said of the speaker and the sound prompts, the transcript the
    speech. Videos get the names of the release, by which its tools look for them. Set 3 is speech alone.

    Args:
        root: the folder.
        sets: which of its parts.
        max_clips: only the first so many of them, in the order of their names; None for all.
        clip: what the videos to make look like; an experiment says it once, in its section ``clip``.
        batch_size: images per batch and rank.
        background: colour that is seen behind transparent pictures.

    Raises:
        InputError: a part or a picture is missing, or a file is not as released.
    """

    def __init__(
        self,
        root: str,
        sets: Sequence[str] = _SETS,
        max_clips: int | None = None,
        clip: ClipShape | None = None,
        batch_size: int = 1,
        background: str = "white",
    ) -> None:
        check_sets(sets)
        folder = located(root)
        prompts = [prompt for name in sets for prompt in _verse_set(folder / name)]
        super().__init__(**_lists(prompts, max_clips), clip=clip, batch_size=batch_size, background=background)


@names_files("root", "images")
class JavisBench(ImageAudioPairs):
    """JavisBench (Liu et al., 2025, arXiv 2503.23377): a CSV list of prompts, to ``predict`` from.

    ``text`` is the caption and ``audio_text``, where the list has it, the scene. Prompts are all that is released, and
    our models begin with a picture: ``images`` holds first frames that you made from the prompts. Row n (from 0) is
    called ``sample_<n, four digits>``, by which the benchmark looks for videos.

    Args:
        root: ``JavisBench.csv`` or ``JavisBench-mini.csv``.
        images: folder of first frames, ``sample_0000.png`` (or .jpg) for the first row.
        max_clips: only the first so many rows; None for all.
        clip: what the videos to make look like; an experiment says it once, in its section ``clip``.
        batch_size: images per batch and rank.
        background: colour that is seen behind transparent pictures.

    Raises:
        InputError: the list lacks its columns, or a row its first frame.
    """

    def __init__(
        self,
        root: str,
        images: str,
        max_clips: int | None = None,
        clip: ClipShape | None = None,
        batch_size: int = 1,
        background: str = "white",
    ) -> None:
        listing, folder = located(root), located(images)
        rows = published_rows(listing, ["text"], optional=["audio_text"])
        prompts = []
        for number, (_, row) in enumerate(rows[:max_clips]):
            name = f"sample_{number:04d}"
            prompts.append(
                _Prompt(name, picture_of(folder, name), row["text"], row.get("audio_text") or row["text"], "")
            )
        super().__init__(**_lists(prompts, max_clips), clip=clip, batch_size=batch_size, background=background)


@names_files("root", "images")
class HarmonyBench(ImageAudioPairs):
    """A list of prompts in Harmony-Bench's form (arXiv 2511.21579), to ``predict`` from; see `read_prompts`.

    The published list is not released; ``configs/eval/harmony_bench_own.jsonl`` is a small one of our own. Our models
    begin with a picture, which is a row's ``reference_image`` or the one called after its id in ``images``, and speak
    with the voice of its ``reference_audio`` where it names one. Videos get the ids, by which ``avsync score`` looks
    for them.

    Args:
        root: the ``.jsonl`` or ``.csv`` list.
        images: folder of first frames; None where all rows name theirs.
        subsets: which parts of the list (``ambient``, ``speech``, ``complex``); None for all.
        max_clips: only the first so many rows of these; None for all.
        clip: what the videos to make look like; an experiment says it once, in its section ``clip``.
        batch_size: images per batch and rank.
        background: colour that is seen behind transparent pictures.
        reference_s: length in seconds of the slot for the reference voice; what is longer is cut. The paper's
            references have 1 to 3 s.

    Raises:
        InputError: the list cannot be used, or a row has no first frame.
    """

    def __init__(
        self,
        root: str,
        images: str | None = None,
        subsets: Sequence[str] | None = None,
        max_clips: int | None = None,
        clip: ClipShape | None = None,
        batch_size: int = 1,
        background: str = "white",
        reference_s: float = 3.0,
    ) -> None:
        listing = located(root)
        found = read_prompts(listing, NamedMedia(listing.parent, absolute=True))
        if unknown := set(subsets or ()) - {str(prompt.subset) for prompt in found}:
            there = ", ".join(sorted({str(prompt.subset) for prompt in found}))
            raise InputError(f"subsets names {min(unknown)!r}, which {listing} does not have; it has {there}")
        prompts = []
        for prompt in found:
            if subsets is not None and prompt.subset not in subsets:
                continue
            if prompt.image is None and images is None:
                raise InputError(f"{listing}: {prompt.id} has no reference_image; set images to a folder of pictures")
            image = prompt.image or picture_of(located(str(images)), prompt.id)
            scene = prompt.scene or prompt.caption
            words = prompt.transcript or ""
            prompts.append(_Prompt(prompt.id, image, prompt.caption, scene, words, prompt.reference))
        super().__init__(
            **_lists(prompts, max_clips),
            reference_s=reference_s,
            clip=clip,
            batch_size=batch_size,
            background=background,
        )


@names_files("root")
class VerseBenchPrompts(PromptClips):
    """Verse-Bench's prompts and first frames, for ``avsync score``; its three sets are the subsets.

    Args:
        root: the folder, as `VerseBench` reads it.
        sets: which of its parts.
        clip: what the generated clips look like.
        batch_size: clips per batch and rank.

    Raises:
        InputError: a part or a picture is missing, or a file is not as released.
    """

    def __init__(
        self, root: str, sets: Sequence[str] = _SETS, clip: ClipShape | None = None, batch_size: int = 1
    ) -> None:
        super().__init__(root, clip, batch_size)
        self.sets = tuple(sets)
        check_sets(self.sets)

    def _read(self) -> Iterator[Prompt]:
        for name in self.sets:
            for one in _verse_set(self.root / name):
                words = one.transcript or None
                yield Prompt(one.name, one.caption, one.scene, words, subset=name, image=one.image)


def check_sets(sets: Sequence[str]) -> None:
    """Refuses a part that Verse-Bench does not have.

    Raises:
        InputError: naming it.
    """
    if unknown := [name for name in sets if name not in _SETS]:
        raise InputError(f"sets names {unknown[0]!r}; choose from {', '.join(_SETS)}")


class _Prompt(NamedTuple):
    name: str
    image: Path
    caption: str
    scene: str
    transcript: str
    reference: Path | None = None


def _lists(prompts: Sequence[_Prompt], max_clips: int | None) -> dict[str, Any]:
    """What ``ImageAudioPairs`` is given."""
    if max_clips is not None and max_clips < 1:
        raise InputError(f"max_clips is {max_clips}; it must be at least 1")
    prompts = prompts[:max_clips]
    return {
        "images": [str(prompt.image) for prompt in prompts],
        "captions": [prompt.caption for prompt in prompts],
        "scenes": [prompt.scene for prompt in prompts],
        # models that do not speak can be asked for sets without words
        "transcripts": [prompt.transcript for prompt in prompts] if any(p.transcript for p in prompts) else None,
        "references": [str(p.reference or "") for p in prompts] if any(p.reference for p in prompts) else None,
        "names": [prompt.name for prompt in prompts],
    }


def _verse_set(folder: Path) -> list[_Prompt]:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder} holds no .json files; root must be the folder with set1, set2 and set3")
    prompts = []
    for file in files:
        item = json_of(file)
        item = item if isinstance(item, dict) else {}
        video, sounds, speech = (item.get(key) for key in ("video_prompt", "audio_prompt", "speech_prompt"))
        if not isinstance(video, str) or not isinstance(sounds, list) or not isinstance(speech, dict):
            raise InputError(
                f"{file} is not as released: video_prompt must be text, audio_prompt a list and speech_prompt an"
                f" object; it has {', '.join(item) or 'nothing'}"
            )
        words = str(speech.get("text") or "").strip()
        heard = [str(speech.get("speaker") or "")] if words else []
        scene = ", ".join(part for part in (*heard, *map(str, sounds)) if part)
        prompts.append(_Prompt(file.stem, picture_of(folder, file.stem), video, scene or video, words))
    return prompts
