"""Writes clips with sound and a page to watch them on."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from callbacks.divisions import divisions_of
from callbacks.evaluation import EvaluationCallback
from callbacks.report.clip_cards import ClipEntry, ClipVideo, OnsetTracks, poster_of
from callbacks.report.clip_videos import file_stem, side_by_side, to_uint8, watchable, waveform, write_picture
from callbacks.report.names import GENERATED, headline, label_of
from callbacks.report.outcome import sentence
from callbacks.report.page import Point, ReportPage, Status
from callbacks.report.tensorboard import MAX_CLIPS, add_clip, add_sound
from callbacks.results import collect_results, reporting
from callbacks.run_record import config_text, run_folder, versions
from components.contracts import Generation, MetricResult
from components.errors import InputError
from components.media.writer import write_mp4
from components.weights.whole_file import whole_file

_MOST_POINTS = 512
_SHARED_SIDE = (
    128  # of a panel of the video that is passed on but not played on the page; larger ones cost more than all that are
)
REPORT_FOLDER = "report"
PAGE = "index.html"


class SampleReport(EvaluationCallback):
    """``<run>/report/index.html``: what came out, clips that play, scores, curves; renewed at every evaluation.

    The videos (``report/media``) are the generation, its variants and the real clip, each with the sound that drove it
    or was generated with it, and one video with all of them side by side. TensorBoard gets the first four clips as
    pictures and sound. Rank 0 shows the first clips it evaluates itself; the best, the median and the worst of them
    stand first.

    Args:
        num_clips: how many clips to show.
        min_side: shorter side in pixels that small videos are enlarged to.
        crf: quality of the videos, 0 (lossless) to 51.
        title: heading of the page; None takes the name of the run's folders.
        curves: logged training metrics that are drawn over the steps, beside the results of the evaluations.
        next_steps: what one may do after the run -> the command that does it, in which ``{ckpt}`` stands for the
            checkpoint that the run was evaluated with, or the ``last.ckpt`` that it leaves.

    Raises:
        InputError: if ``num_clips`` is negative or ``min_side`` below 16.
    """

    def __init__(
        self,
        num_clips: int = 8,
        min_side: int = 192,
        crf: float = 18.0,
        title: str | None = None,
        curves: Sequence[str] = ("train/loss",),
        next_steps: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if num_clips < 0:
            raise InputError(f"SampleReport.num_clips is {num_clips}; it must be at least 0")
        if min_side < 16:
            raise InputError(f"SampleReport.min_side is {min_side}; it must be at least 16 pixels")
        self.num_clips = num_clips
        self.min_side = min_side
        self.crf = crf
        self.title = title
        self.curves = tuple(curves)
        self.next_steps = dict(next_steps or {})
        self._stride = 1
        self._tried = 0
        self._folder: Path | None = None
        self._fitting = False
        self._entries: list[ClipEntry] = []
        self._shown: dict[str, dict[str, Any]] = {}
        self._latest: dict[str, MetricResult] = {}
        self._history: dict[str, list[Point]] = {}
        self._real_written: set[str] = set()
        self._writers: list[SummaryWriter] = []
        self._show_bar = True
        self._model = ""
        self._given_sound = False
        self._checkpoint: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run folder."""
        self._model = type(pl_module).__name__.removesuffix("Module")
        folder = run_folder(trainer)
        self._folder = folder if trainer.is_global_zero and stage != "predict" else None
        self._fitting = stage == "fit"

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, so that a resumed run goes on drawing them."""
        return {
            "stride": self._stride,
            "history": {name: [list(point) for point in points] for name, points in self._history.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the curves of the run that is resumed; a validation starts its own."""
        # other commands load the checkpoint too, and start curves of their own
        if self._fitting:
            self._stride = state_dict["stride"]
            self._history = {
                name: [cast(Point, tuple(point)) for point in points] for name, points in state_dict["history"].items()
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes a point of the training curves whenever the trainer logs, less often in long runs."""
        step, every = trainer.global_step, trainer.log_every_n_steps * self._stride  # type: ignore[attr-defined]
        if every and not step % every:  # 0 logs nothing
            with self.failures.kept(trainer, self, "draw the training curves", "they lack this point"):
                self._take_points(trainer, step)

    def _take_points(self, trainer: Trainer, step: int) -> None:
        for name in self.curves:
            points = self._history.setdefault(name, [])
            if name not in trainer.callback_metrics or (points and points[-1][0] == step):
                continue
            points.append((step, trainer.callback_metrics[name].item(), math.nan, math.nan))
        if any(len(self._history[name]) > _MOST_POINTS for name in self.curves):
            # thinned by half, and taken half as often from now on
            self._stride *= 2
            self._history |= {name: self._history[name][1::2] for name in self.curves}

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Clears the clips of the last evaluation."""
        self._entries = []
        self._show_bar = trainer.progress_bar_callback is not None
        self._run = trainer
        self._tried = 0
        self._writers = []
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        with self.failures.kept(trainer, self, "open TensorBoard's log", "TensorBoard gets no clips"):
            self._writers = [logger.experiment for logger in loggers] if trainer.is_global_zero else []

    def update(self, generation: Generation) -> None:
        """Writes the media of the first clips."""
        if self._folder is None:
            return
        self._given_sound = generation.audio is generation.reference.audio
        rows = generation.valid_mask().nonzero().flatten().tolist()[: self.num_clips - self._tried]
        self._tried += len(rows)
        with tqdm(rows, "report", leave=False, unit="clip", disable=not (rows and self._show_bar)) as bar:
            for row in bar:
                name = generation.reference.ids[row]
                with self.failures.kept(self._run, self, "show", "the page lacks what could not be shown", name):
                    self._entries.append(self._write_clip(generation, row))

    def _write_clip(self, generation: Generation, row: int) -> ClipEntry:
        assert self._folder is not None
        batch = generation.reference
        clip_id, stem = batch.ids[row], file_stem(batch.ids[row])
        made = {GENERATED: generation, **generation.variants}
        sources = {name: item.video[row] for name, item in made.items()}
        sounds = {name: (item.audio[row].float().cpu(), item.sample_rate) for name, item in made.items()}
        if batch.video.shape[1] > 1:
            sources["real"] = batch.video[row]
            sounds["real"] = (batch.audio[row].float().cpu(), batch.sample_rate)
        one_sound = all(item.audio is batch.audio for item in made.values())
        waves = {
            kind: waveform(*sound, generation.video.shape[1] / generation.fps)
            for kind, sound in sounds.items()
            if kind == GENERATED or not one_sound
        }
        shown = {kind: to_uint8(video) for kind, video in sources.items()}
        report = self._folder / REPORT_FOLDER

        def write(name: str, video: Tensor) -> str:
            path = f"media/{stem}.{name}.mp4"
            audio, rate = sounds.get(name, sounds[GENERATED])
            sound = audio[: round(len(video) / generation.fps * rate)]
            write_mp4(report / path, video, generation.fps, sound, rate, self.crf)
            return path

        large = {kind: watchable(video, self.min_side) for kind, video in shown.items()}
        videos = {}
        for kind, video in large.items():
            height, width = video.shape[-2:]
            path = f"media/{stem}.{kind}.mp4"
            if kind != "real" or clip_id not in self._real_written:  # it does not change between evaluations
                write_picture(report / poster_of(write(kind, video)), video[0])
            videos[kind] = ClipVideo(path, width, height, crisp=width > shown[kind].shape[-1] + 1)
        self._real_written.add(clip_id)
        if self._writers and len(self._entries) < MAX_CLIPS:
            tag, step = f"{self.stage}_clips/{clip_id}", self.global_step
            with self.failures.kept(self._run, self, "show in TensorBoard", "the page has it all the same", clip_id):
                small = side_by_side({label_of(kind): watchable(video, 96) for kind, video in shown.items()})
                for writer in self._writers:
                    add_clip(writer, tag, small, generation.fps, step)
                    add_sound(writer, tag, *sounds[GENERATED], step)
        together = {label_of(kind): watchable(video, min(self.min_side, _SHARED_SIDE)) for kind, video in shown.items()}
        wide = write("side_by_side", side_by_side(together))
        groups = dict(divisions_of(batch, [row])).get(clip_id, {})
        return ClipEntry(clip_id, batch.captions[row], wide, videos, waves, groups=groups)

    def conclude(self, trainer: Trainer, module: LightningModule) -> None:
        """Renews the page with the results of all callbacks."""
        self._latest = collect_results(trainer)
        for name, result in self._latest.items():
            # a resumed run repeats steps: their points are replaced
            earlier = [point for point in self._history.get(name, []) if point[0] < self.global_step]
            self._history[name] = [*earlier, (self.global_step, result.value, *result.ci95)]
        self._shown = _collect_rows(trainer)
        # weights that the configuration itself names have no checkpoint
        self._checkpoint = None if self._fitting else str(trainer.ckpt_path or "pretrained")
        self._write_page("running")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run has ended well."""
        if self._folder is None or not (self._entries or self._latest):
            return
        with self.failures.kept(trainer, self, "write the page", "it may not say that the run has ended"):
            self._write_page("finished")
            Console().print(f"Report: {self._folder / REPORT_FOLDER / PAGE}", soft_wrap=True, highlight=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run has ended otherwise: a page that is there must not look finished."""
        if self._folder is None:
            return
        with self.failures.kept(trainer, self, "write the page", "it may not say that the run has ended"):
            if (self._folder / REPORT_FOLDER / PAGE).exists():
                self._write_page("stopped", f"{type(exception).__name__} {exception}".strip())

    def _write_page(self, status: Status, reason: str = "") -> None:
        if self._folder is None:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        remark = f"Evaluated at step {self.global_step:,} · page written {now} · {self._folder}"
        if reason:
            remark = f"Stopped before its end: {' '.join(reason.split())[:300]} · {remark}"
        metric = headline(self._latest)
        scores = [row["scores"].get(metric) for row in self._shown.values()]
        page = ReportPage(
            title=self.title or f"{self._folder.parent.name} / {self._folder.name}",
            status=status,
            lead=sentence(self._model, self.global_step, self._given_sound, self._latest),
            remark=remark,
            results=self._latest,
            curves=self._history,
            clips=[_with_row(entry, self._shown.get(entry.id, {})) for entry in self._entries],
            config=config_text(self._folder),
            versions=versions(),
            all_scores=[score for score in scores if score is not None],
            next_steps=self._commands(),
        )
        text = page.html()
        # whole at any time: a browser may reload
        with whole_file(self._folder / REPORT_FOLDER / PAGE) as stream:
            stream.write(text.encode())

    def _commands(self) -> dict[str, str]:
        assert self._folder is not None
        checkpoint = Path(self._checkpoint or self._folder / "checkpoints/last.ckpt")
        # commands are given where the run was started; a path from there stays short
        if checkpoint.is_relative_to(Path.cwd()):
            checkpoint = checkpoint.relative_to(Path.cwd())
        found = shlex.quote(str(checkpoint))
        return {say: command.replace("{ckpt}", found) for say, command in self.next_steps.items()}


def _collect_rows(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Scores, what they judge, which way they are better and the onsets behind them, of each clip by all judges."""
    rows: dict[str, dict[str, Any]] = {}
    for judge in reporting(trainer):
        for clip_id, found in judge.clip_rows.items():
            row = cast(Mapping[str, Any], found)
            known = rows.setdefault(clip_id, {"scores": {}, "kinds": {}, "higher_is_better": {}, "plots": []})
            known["scores"] |= row.get("scores", {})
            known["kinds"] |= row.get("kinds", {})
            known["higher_is_better"] |= row.get("higher_is_better", {})
            if "onsets" in row:
                known["plots"].append(
                    OnsetTracks(
                        row.get("onsets_by", ""),
                        row["onsets"],
                        row.get("duration_s", 0.0),
                        row.get("tolerance_s", 0.0),
                        row.get("sound_onsets"),
                    )
                )
    return rows


def _with_row(entry: ClipEntry, row: Mapping[str, Any]) -> ClipEntry:
    return replace(entry, **row)
