"""Both quickstarts over every layout of files, from the recordings and from encoded clips: two steps, loss by loss.

    python -m tests.layouts --out DIR

Each layout is written as tiny real media files, read by its own data set, and trained on by the real commands: ``fit``
on recordings, ``prepare``, ``fit`` on what that wrote. Both trainings see the same clips in the same order, so that
their losses may differ by no more than `TOLERANCE` of themselves. The table is written to ``DIR/layouts.md``.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.command_line.cli import main
from tests.public_folders.avsync15 import write_avsync15
from tests.public_folders.greatest_hits import write_greatest_hits
from tests.public_folders.speech import write_manifest, write_speech

ROOT = Path(__file__).parents[1]
SYSTEMS = {"syncphony": "configs/quickstart.yaml", "harmony": "configs/harmony/quickstart.yaml"}
TOLERANCE = 1e-5
"""Relative: sums in other batches than the raw run's round otherwise."""
SECONDS, STEPS = 2.5, 2
SPEECH = ("--data.reference_s=0.5", "--data.min_reference_s=0.25", "--data.partial_transcripts=keep")


@dataclass(frozen=True)
class Layout:
    """A form in which recordings lie on a disk.

    Attributes:
        data: the class that reads it.
        write: makes it in a folder; returns what is its root.
        options: more of the data section.
        references: whether the class gives reference voices, which Harmony reads.
    """

    data: str
    write: Callable[[Path], Path]
    options: Sequence[str] = ()
    references: bool = False


def folder_of_videos(root: Path) -> Path:
    """Videos in two folders, a text beside each."""
    for index in range(8):
        file = root / ("beach", "city")[index % 2] / f"{index}.mp4"
        write_speech(file, index % 4, index % 5, SECONDS)
        file.with_suffix(".txt").write_text(f"a wall of kind {index % 4}\n")
    return root


def hdtf(root: Path) -> Path:
    """Clips of three speakers, two of each, and the lists of the public mirror."""
    names = [f"WDA_Speaker{speaker}_000_{index}_80" for speaker in range(3) for index in range(2)]
    for index, name in enumerate(names):
        write_speech(root / "clips" / f"{name}.mp4", index // 2, index % 2, SECONDS)
    (root / "train.txt").write_text("".join(f"{name}\n" for name in names[:4]))
    (root / "test.txt").write_text("".join(f"{name}\n" for name in names[4:]))
    return root


def avsync15(root: Path) -> Path:
    """Four training clips and two of the test."""
    write_avsync15(root, 4, 2, 32, 32, SECONDS)
    return root


def greatest_hits(root: Path) -> Path:
    """The small release, two recordings of each list."""
    return write_greatest_hits(root / "vis-data-256", seconds=4.0).root


LAYOUTS = {
    "FolderClips": Layout("datamodules.folder_clips.FolderClips", folder_of_videos, SPEECH, references=True),
    "manifest": Layout(
        "datamodules.speech_clips.SpeechClips", lambda root: write_manifest(root, SECONDS), SPEECH, references=True
    ),
    "AVSync15": Layout("datamodules.avsync15.AVSync15", avsync15),
    "GreatestHits": Layout("datamodules.greatest_hits.TheGreatestHits", greatest_hits),
    "HDTF": Layout("datamodules.speech_clips.SpeechClips", hdtf, SPEECH, references=True),
}


@dataclass(frozen=True)
class Walk:
    """Losses of one layout under one system, step by step."""

    layout: str
    system: str
    raw: Sequence[float]
    cached: Sequence[float]

    @property
    def difference(self) -> float:
        """The largest between the two, of the raw loss."""
        pairs = zip(self.raw, self.cached, strict=True)
        return max(abs(raw - cached) / abs(raw) for raw, cached in pairs)


def walk(layout: str, system: str, folder: Path) -> Walk:
    """Writes the files, trains on them, encodes them, trains on what was encoded.

    Args:
        layout: a key of `LAYOUTS`.
        system: a key of `SYSTEMS`.
        folder: everything is written into it.

    Raises:
        RuntimeError: if a command fails.
    """
    form, place = LAYOUTS[layout], folder / f"{layout}_{system}"
    root = form.write(place / "files")
    data = ["--data", form.data, f"--data.root={root}", "--data.num_workers=0", *form.options]
    experiment = ["--config", str(ROOT / SYSTEMS[system]), *data]
    cache = place / "latents"
    raw = _fit([*experiment, "--data.offsets=2"], place, "raw")
    _run(["prepare", "--out", str(cache), "--offsets", "2", *experiment])
    return Walk(layout, system, raw, _fit([*experiment, f"--data.latents={cache}"], place, "cached"))


def _fit(experiment: Sequence[str], place: Path, name: str) -> list[float]:
    quiet = ["--callbacks=null", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    length = [f"--trainer.max_steps={STEPS}", "--trainer.limit_val_batches=0", "--data.batch_size=4"]
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={place}"]
    beat = ["--trainer.log_every_n_steps=1", "--trainer.enable_checkpointing=false", "--experiment", name]
    _run(["fit", *experiment, *quiet, *length, *logger, *beat, f"--trainer.default_root_dir={place}"])
    (file,) = place.rglob(f"{name}/version_0/metrics.csv")
    return [float(row["train/loss"]) for row in csv.DictReader(file.open()) if row["train/loss"]]


def _run(command: list[str]) -> None:
    if status := main(command):
        raise RuntimeError(f"avsync {' '.join(command)} ended with status {status}")


def table(walks: Sequence[Walk]) -> str:
    """A row for each layout and system."""
    lines = ["| layout | system | raw loss | cached loss | difference |", "| --- | --- | --- | --- | --- |"]
    for one in walks:
        raw, cached = (", ".join(f"{loss:.6f}" for loss in losses) for losses in (one.raw, one.cached))
        lines.append(f"| {one.layout} | {one.system} | {raw} | {cached} | {one.difference:.1e} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    sys.argv = ["avsync"]
    walks: list[Walk] = []
    with tempfile.TemporaryDirectory() as temporary:
        for named in LAYOUTS:
            for model in SYSTEMS:
                walks.append(walk(named, model, Path(temporary)))
                (out / "layouts.md").write_text(table(walks))
    sys.stdout.write(table(walks))
    sys.exit(any(one.difference > TOLERANCE for one in walks))
