"""The README's pictures of a finished run: its clips in motion (gif) and frame by frame (png).

::

    python -m benchmarks.readme_pictures runs/quickstart/version_0 --name syncphony_quickstart

reads the run's report and ``clips.jsonl`` and writes ``docs/images/NAME.gif`` and ``NAME.png``. Of every scene (the
folder in the clips' names) it shows the clip with the median score among those of the report, of a set without scenes
the best, the median and the worst; ``--clips`` names others.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks.clip_scores import CLIPS_FILE, read_clip_scores
from callbacks.report.clip_videos import file_stem, waveform
from callbacks.report.names import GENERATED, METRICS, headline
from callbacks.report.plots import Waveform
from callbacks.sample_report import REPORT_FOLDER
from components.errors import InputError
from components.media.reader import probe, read_audio, read_video
from components.weights.whole_file import whole_file

KINDS = {"real": "real", GENERATED: "generated", "off_sync": "without sound", "no_synccfg": "without SyncCFG"}
_PAPER, _INK, _SOFT, _WAVE, _HEAD = (24, 27, 32), (230, 232, 235), (152, 162, 176), (96, 116, 148), (255, 138, 80)
_GAP, _TEXT_HEIGHT, _WAVE_HEIGHT = 6, 22, 34


@dataclass(frozen=True)
class Clip:
    """What is drawn of a clip.

    Attributes:
        title: its scene in words.
        videos: kind -> uint8 frames ``[T, H, W, 3]``.
        fps: frames per second.
        wave: the sound of what was generated.
    """

    title: str
    videos: Mapping[str, np.ndarray]
    fps: float
    wave: Waveform


def shown_clips(run: Path) -> dict[str, float]:
    """Clips of the run's report -> their score by the run's headline, the highest first.

    Raises:
        InputError: if there are none.
    """
    scores = read_clip_scores(run / CLIPS_FILE)
    metric = headline(score.metric for score in scores)
    found = {
        score.clip: score.value
        for score in scores
        if score.metric == metric and score.value is not None and _video(run, score.clip, GENERATED).exists()
    }
    if metric is None or not found:
        raise InputError(f"no clip in '{run / REPORT_FOLDER}' has a score; give a finished run with a report")
    return dict(sorted(found.items(), key=lambda item: item[1], reverse=METRICS[metric].higher_is_better))


def typical(ranked: Sequence[str]) -> list[str]:
    """The median clip of every scene; best, median and worst of a set without scenes.

    Args:
        ranked: names of clips, the best first.
    """
    scenes: dict[str, list[str]] = {}
    for name in ranked:
        scenes.setdefault(name.rpartition("/")[0], []).append(name)
    if len(scenes) == 1:
        return list(dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1])))
    return [names[len(names) // 2] for _, names in sorted(scenes.items())]


def read_clip(run: Path, name: str) -> Clip:
    """A clip of the run's report.

    Raises:
        InputError: if the report does not have it.
    """
    files = {kind: _video(run, name, kind) for kind in KINDS}
    if not files[GENERATED].exists():
        raise InputError(f"the report of '{run}' does not show the clip '{name}'; it shows {list(shown_clips(run))}")
    videos = {kind: _frames(file) for kind, file in files.items() if file.exists()}
    info = probe(files[GENERATED])
    duration_s = len(videos[GENERATED]) / info.fps
    sound = read_audio(files[GENERATED], 0.0, round(duration_s * 16_000), 16_000)
    title = name.rpartition("/")[0].rpartition("/")[2].replace("_", " ")
    return Clip(title or name, videos, info.fps, waveform(sound, 16_000, duration_s, pieces=160))


def moving(clips: Sequence[Clip], side: int = 128) -> list[Image.Image]:
    """A picture per frame: real above generated, the sound with a playhead below."""
    kinds = [kind for kind in ("real", GENERATED) if kind in clips[0].videos]
    labels = 84
    size = (labels + len(clips) * (side + _GAP), (len(kinds)) * (side + _GAP) + _WAVE_HEIGHT + _TEXT_HEIGHT + 2 * _GAP)
    pictures = []
    for index in range(min(len(clip.videos[GENERATED]) for clip in clips)):
        picture = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(picture)
        for column, clip in enumerate(clips):
            left = labels + column * (side + _GAP)
            for row, kind in enumerate(kinds):
                top = _GAP + row * (side + _GAP)
                frame = clip.videos[kind][min(index, len(clip.videos[kind]) - 1)]
                picture.paste(_tile(frame, side), (left, top))
            top = _GAP + len(kinds) * (side + _GAP)
            _draw_wave(draw, clip.wave, (left, top, side, _WAVE_HEIGHT))
            head = left + side * (index + 0.5) / clip.fps / clip.wave.duration_s
            draw.line((head, top, head, top + _WAVE_HEIGHT), fill=_HEAD, width=2)
            _write(draw, (left + side / 2, top + _WAVE_HEIGHT + _TEXT_HEIGHT / 2), clip.title, "mm", _SOFT)
        for row, kind in enumerate(kinds):
            _write(draw, (labels - 10, _GAP + row * (side + _GAP) + side / 2), KINDS[kind], "rm")
        _write(draw, (labels - 10, top + _WAVE_HEIGHT / 2), "sound", "rm")
        pictures.append(picture)
    return pictures


def frame_by_frame(clips: Sequence[Clip], side: int = 64, num_frames: int = 12) -> Image.Image:
    """Frames at equal distances, a row for every kind of video, the sound below each clip."""
    labels, step = 120, side + 2
    rows = [len(clip.videos) * step + _WAVE_HEIGHT + _TEXT_HEIGHT + _GAP for clip in clips]
    picture = Image.new("RGB", (labels + num_frames * step + _GAP, sum(rows)), _PAPER)
    draw = ImageDraw.Draw(picture)
    top = 0
    for clip, height in zip(clips, rows, strict=True):
        _write(draw, (labels, top + _TEXT_HEIGHT / 2 + 1), clip.title, "lm", _SOFT)
        for row, (kind, frames) in enumerate(clip.videos.items()):
            y = top + _TEXT_HEIGHT + row * step
            for column, index in enumerate(np.linspace(0, len(frames) - 1, num_frames).round().astype(int)):
                picture.paste(_tile(frames[index], side), (labels + column * step, y))
            _write(draw, (labels - 10, y + side / 2), KINDS[kind], "rm")
        y = top + _TEXT_HEIGHT + len(clip.videos) * step
        # the first frame stands in the middle of its picture, so the sound begins there
        _draw_wave(draw, clip.wave, (labels + side // 2, y, (num_frames - 1) * step, _WAVE_HEIGHT))
        _write(draw, (labels - 10, y + _WAVE_HEIGHT / 2), "sound", "rm")
        top += height
    return picture


def save_moving(path: Path, pictures: Sequence[Image.Image], fps: float) -> None:
    """Writes an animated gif that repeats; one palette for all frames, so that nothing flickers."""
    strip = np.concatenate([np.array(picture)[::4, ::4] for picture in pictures])
    palette = Image.fromarray(strip).quantize(255, Image.Quantize.MEDIANCUT)
    drawn = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    with whole_file(path) as stream:
        # a gif counts in hundredths of a second
        drawn[0].save(
            stream, "GIF", save_all=True, append_images=drawn[1:], duration=10 * round(100 / fps), loop=0, optimize=True
        )


def _video(run: Path, name: str, kind: str) -> Path:
    return run / REPORT_FOLDER / "media" / f"{file_stem(name)}.{kind}.mp4"


def _frames(file: Path) -> np.ndarray:
    info = probe(file)
    count = round(info.duration_s * info.fps)
    video: Tensor = read_video(file, 0.0, count, info.fps, info.height, info.width)
    return video.permute(0, 2, 3, 1).numpy()


def _tile(frame: np.ndarray, side: int) -> Image.Image:
    """A square, its pixels as they are."""
    return Image.fromarray(frame).resize((side, side), Image.Resampling.NEAREST)


def _draw_wave(draw: ImageDraw.ImageDraw, wave: Waveform, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    middle, scale = top + height / 2, max(0.05, *wave.peaks)
    for index, peak in enumerate(wave.peaks):
        x = left + width * (index + 0.5) / len(wave.peaks)
        reach = max(0.5, peak / scale * (height / 2 - 2))
        draw.line((x, middle - reach, x, middle + reach), fill=_WAVE, width=max(1, round(width / len(wave.peaks))))


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, anchor: str, colour: tuple[int, int, int] = _INK
) -> None:
    draw.text(at, text, fill=colour, anchor=anchor, font=ImageFont.load_default(13))


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="folder of a finished run with a report")
    parser.add_argument("--name", help="file name of the pictures without ending; the experiment's if not given")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"), help="where the pictures go")
    parser.add_argument("--clips", nargs="+", help="names of the clips to show")
    args = parser.parse_args(arguments)
    names = args.clips or typical(list(shown_clips(args.run)))
    clips = [read_clip(args.run, name) for name in names]
    target = args.folder / (args.name or args.run.resolve().parent.name)
    save_moving(target.with_suffix(".gif"), moving(clips), clips[0].fps)
    with whole_file(target.with_suffix(".png")) as stream:
        frame_by_frame(clips).save(stream, "PNG", optimize=True)
    print(f"{target}.gif and .png show {', '.join(names)}")


if __name__ == "__main__":
    main()
