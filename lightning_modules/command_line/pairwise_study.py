"""Makes the page of ``avsync pairwise``: pairs of clips, their media and what is asked."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from callbacks.clip_files import CLIPS_FOLDER
from callbacks.evaluation import GENERATED
from callbacks.prediction_writer import PREDICTIONS_FOLDER
from callbacks.report.clip_videos import watchable
from components.errors import InputError
from components.media.reader import MediaReader
from components.media.writer import write_mp4
from components.weights.whole_folder import check_target, whole_folder
from lightning_modules.command_line.pairwise_questions import FORMAT, QUESTIONS
from lightning_modules.judged_files.matching import listed_files, listing

PAGE = "index.html"
_PLAYED = (".mp4", ".webm", ".m4v")
"""Containers that browsers play; other files are encoded anew."""
_MIN_SIDE = 192


def make_study(systems: Sequence[str], names: Sequence[str], out: Path, seed: int, max_pairs: int | None) -> None:
    """Writes the page and its media; the folder appears whole or not at all.

    Args:
        systems: two runs or folders.
        names: what they are called in the votes.
        out: the folder; an earlier page that is there is replaced.
        seed: decides the order of the pairs and which system is on the left.
        max_pairs: at most so many pairs; None for all.

    Raises:
        InputError: if the systems have no clip in common, one cannot be read, or the folder is in use.
    """
    if names[0] == names[1]:
        raise InputError(f"both systems are called '{names[0]}'; give two names with --names")
    check_target(out)
    a, b = ({name: file for file, name in listed_files(_clips_of(system)).items()} for system in systems)
    both = sorted(a.keys() & b.keys())
    if not both:
        raise InputError(
            f"'{systems[0]}' and '{systems[1]}' have no clip of the same name ({listing(sorted(a))}; "
            f"{listing(sorted(b))}); give two runs over the same clips"
        )
    drawn = random.Random(seed)
    drawn.shuffle(both)
    both = both[:max_pairs]
    # half of the pairs, and no chance: a system that is always on the left would be told by it
    swapped = [index % 2 == 1 for index in range(len(both))]
    drawn.shuffle(swapped)
    with whole_folder(out) as partial:
        pairs = []
        for number, (clip, swap) in enumerate(zip(both, swapped, strict=True)):
            sides = {"left": b[clip] if swap else a[clip], "right": a[clip] if swap else b[clip]}
            media = {side: _media(file, partial, f"media/{number:04d}_{side}") for side, file in sides.items()}
            pairs.append({"clip": clip, "left_is": "b" if swap else "a", **media})
        study = _study(names, pairs)
        (partial / PAGE).write_text(_page(study), encoding="utf-8")
    left_out = len(a.keys() | b.keys()) - len(a.keys() & b.keys())
    sys.stdout.write(
        f"Page: {out / PAGE} ({len(pairs)} pairs; {left_out} clips are in one system alone)\n"
        "Votes are saved from the page: avsync pairwise --votes votes.json\n"
    )


def _clips_of(system: str) -> str:
    """The folder of clips that is meant: what a run kept or predicted, or the folder itself."""
    for inner in (Path(system) / CLIPS_FOLDER / GENERATED, Path(system) / PREDICTIONS_FOLDER):
        if inner.is_dir():
            return str(inner)
    return system


def _media(file: Path, folder: Path, name: str) -> str:
    """Copies a video, or encodes it so that browsers play it, under a name that tells nothing; returns its path."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() in _PLAYED:
        target = f"{name}{file.suffix.lower()}"
        shutil.copyfile(file, folder / target)
        return target
    with MediaReader(file) as media:
        info = media.info
        frames = max(1, round(info.duration_s * info.fps))
        height, width = (max(1, round(side)) for side in media.shown_size())
        video = media.video(0.0, frames, info.fps, height, width)
        rate = 48_000  # every browser and AAC know it
        sound = None if info.audio_span_s is None else media.audio(0.0, round(frames / info.fps * rate), rate)
    write_mp4(folder / f"{name}.mp4", watchable(video, _MIN_SIDE), info.fps, sound, rate, crf=12.0)
    return f"{name}.mp4"


def _study(names: Sequence[str], pairs: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    content = {"format": FORMAT, "a": names[0], "b": names[1], "pairs": list(pairs)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return {**content, "study": digest, "questions": QUESTIONS}


def _page(study: Mapping[str, Any]) -> str:
    package = files("lightning_modules.command_line")
    looks = files("callbacks.report").joinpath("page.css").read_text()
    own, script = (package.joinpath(f"pairwise_page.{kind}").read_text() for kind in ("css", "js"))
    cards = "".join(_card(number, pair, len(study["pairs"])) for number, pair in enumerate(study["pairs"]))
    # "</" ends a script wherever it stands
    data = json.dumps(study, ensure_ascii=False).replace("</", "<\\/")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Which is better?</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>\n{looks}\n{own}</style></head>\n<body><main><header><h1>Which is better?</h1>"
        '<p class="lead">Watch both videos of a pair with sound, as often as you like, and answer for each pair.</p>'
        '<p class="soft">Answers stay in this browser until you save them to a file.</p>'
        '<p><label>Your name or a number (may stay empty) <input id="rater" maxlength="80"></label></p></header>'
        f'{cards}<footer class="card"><b id="progress"></b> <button id="save">Save votes</button></footer></main>\n'
        f'<script type="application/json" id="study">{data}</script>\n<script>\n{script}</script></body></html>\n'
    )


def _card(number: int, pair: Mapping[str, str], count: int) -> str:
    videos = "".join(
        f'<figure><video src="{escape(pair[side])}" controls loop playsinline preload="metadata"></video>'
        f"<figcaption>{side}</figcaption></figure>"
        for side in ("left", "right")
    )
    questions = "".join(
        f"<fieldset><legend>{escape(text)}</legend>"
        + "".join(
            f'<label><input type="radio" name="{number}.{name}" value="{side}"> {side}</label>'
            for side in ("left", "right")
        )
        + "</fieldset>"
        for name, text in QUESTIONS.items()
    )
    return (
        f'<section class="card pair" data-pair="{number}"><h3>{number + 1} of {count}</h3>'
        f'<div class="sides">{videos}</div>{questions}</section>'
    )
