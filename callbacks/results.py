"""Prints the results of a run and writes ``results.json``, and beside it the scores of every clip."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.table import Table

from callbacks.clip_scores import CLIPS_FILE, RESULTS_FILE, ClipScore, write_clip_scores
from callbacks.divisions import FOLDER, Divisions, divisions_of, with_parts
from callbacks.evaluation import GENERATED, EvaluationCallback, gathered
from callbacks.failures import Failure, collect_failures
from callbacks.judging_time import JudgingTime, together
from callbacks.run_record import config_sha256, run_folder, seed, versions
from callbacks.throughput import Throughput
from components.contracts import Generation, MetricResult, ReportsResults
from components.errors import InputError
from components.weights.whole_file import whole_file


def collect_results(trainer: Trainer) -> dict[str, MetricResult]:
    """The results of the module, where it judges itself, and of all callbacks that report any, in their order.

    Raises:
        InputError: if two of them report the same entry.
    """
    results: dict[str, MetricResult] = {}
    for judge in reporting(trainer):
        if twice := sorted(results.keys() & judge.results.keys()):
            raise InputError(
                f"the metric {twice[0]} is reported by {type(judge).__name__} and by another callback or the module, "
                "of which one would be lost; give it another name there"
            )
        results |= judge.results
    return results


def collect_clip_scores(trainer: Trainer) -> list[ClipScore]:
    """The scores of every clip by all that report any; rank 0 has all clips."""
    return [
        ClipScore(
            clip=clip,
            recording=str(row.get("video_id", clip)),
            kind=cast(Mapping[str, str], row.get("kinds", {})).get(metric, GENERATED),
            metric=metric,
            value=None if value is None or not math.isfinite(value) else value,
            judge=cast("str | None", judge.results[metric].details.get("judge")),
        )
        for judge in reporting(trainer)
        for clip, row in judge.clip_rows.items()
        for metric, value in cast(Mapping[str, float | None], row.get("scores", {})).items()
        if metric in judge.results
    ]


def reporting(trainer: Trainer) -> list[ReportsResults]:
    """All that report results: the module, where it judges itself, and callbacks in their order."""
    judges = [trainer.lightning_module, *trainer.callbacks]  # type: ignore[attr-defined]
    return [judge for judge in judges if isinstance(judge, ReportsResults)]


class ResultsWriter(EvaluationCallback):
    """At the successful end of ``fit``, ``validate`` and ``test``: a table on screen and two files in the run folder.

    ``results.json`` holds ``{"metrics": {name: {"value", "ci95": [low, high], "n", ...}}, "config_sha256",
    "seed", "versions", "global_step", "throughput": {name: figure}, "judging": {metrics: figures}, "ckpt_path",
    "failed": [sentence, ...]}``, ``clips.jsonl`` a `ClipScore` a line, of the same evaluation. The figures of
    `Throughput` are those of the training; those of ``judging`` say what each callback has taken (`JudgingTime`), which
    is logged, too, as ``perf/judge_<metric>_s``: seconds for a clip of 5 s with all kinds of video there are of it.
    Where clips belong to subsets of a benchmark, say their language or lie in folders of their kind of scene, an entry
    that is a mean over clips has ``groups`` beside it: ``{"subset": {"speech": {"value", "ci95", "n", "n_clips"}}}``. A
    metric that came out as no number and everything else that failed on the way stand under ``failed``. The files
    appear whole at the very end or not at all; what an earlier run left in the same folder is removed when a run
    starts. Bounds of an interval over one item are null.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._collected: dict[str, MetricResult] = {}
        self._clips: list[ClipScore] = []
        self._seen: list[tuple[str, Divisions]] = []
        self._divisions: dict[str, Divisions] = {}
        self._times: dict[str, JudgingTime] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the run folder and removes what an earlier run left there."""
        self._folder = run_folder(trainer)
        self._collected, self._clips = {}, []
        # a run that fails must not leave the last one's numbers behind
        if self._folder is not None and trainer.is_global_zero and stage != "predict":
            for name in (RESULTS_FILE, CLIPS_FILE):
                (self._folder / name).unlink(missing_ok=True)

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Forgets the clips of the last evaluation."""
        self._seen = []

    def update(self, generation: Generation) -> None:
        """Notes which part of a benchmark each clip belongs to."""
        self._seen += divisions_of(generation.reference, generation.valid_mask().nonzero().flatten().tolist())

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Puts together what all ranks have seen."""
        self._divisions = dict(gathered(trainer, self._seen))

    def conclude(self, trainer: Trainer, module: LightningModule) -> None:
        """Keeps the finite results of this evaluation, and what it has cost; the last one counts."""
        self._take_times(trainer)
        found = collect_results(trainer)
        self._clips = collect_clip_scores(trainer)
        finite = {name: result for name, result in found.items() if math.isfinite(result.value)}
        self._collected = with_parts(finite, self._clips, self._divisions)
        lost = [
            f"{name} ({result.value} over {result.n} items)"
            for name, result in found.items()
            if not math.isfinite(result.value)
        ]
        if lost:
            what = (
                "no finite number; check that the evaluation clips have audible onsets and the model's output is finite"
            )
            failure = Failure(type(self).__name__, "keep", ", ".join(lost), what, step=self.global_step)
            self.failures.add(failure, f"{RESULTS_FILE} has the other metrics", say=trainer.is_global_zero)

    def _take_times(self, trainer: Trainer) -> None:
        """Puts together what the judges of all ranks have spent, and logs it."""
        mine = [(", ".join(callback.metrics), callback.time) for callback in _judges(trainer)]
        every = gathered(trainer, mine)
        self._times = {name: together(time for other, time in every if other == name) for name, _ in mine}
        loggers: Sequence[Logger] = trainer.loggers
        for name, found in self._times.items():
            scalars = {f"perf/judge_{name.partition(',')[0]}_s": found.record()["s_per_5s_clip"]}
            for logger in loggers:
                logger.log_metrics(scalars, step=self.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes and prints; Lightning comes here only after everything else went well."""
        if stage != "predict" and trainer.is_global_zero:
            with self.failures.kept(trainer, self, f"write {RESULTS_FILE}", "the run's other files are whole"):
                self._write(trainer, stage)

    def _write(self, trainer: Trainer, stage: str) -> None:
        # no evaluation ran: the step is that of the training
        if stage == "fit" and not self._collected:
            self.global_step = trainer.global_step
        if self._folder is not None:
            ckpt_path = trainer.ckpt_path
            record = {
                "metrics": {name: _entry(result) for name, result in self._collected.items()},
                "config_sha256": config_sha256(self._folder),
                "seed": seed(),
                "versions": versions(),
                "global_step": self.global_step,
                "throughput": _throughput(trainer) if stage == "fit" else {},
                "judging": {name: found.record() for name, found in self._times.items()},
                "ckpt_path": None if ckpt_path is None else str(ckpt_path),
                "failed": [failure.sentence for failure in collect_failures(trainer)],
            }
            if self._clips:
                write_clip_scores(self._folder / CLIPS_FILE, self._clips)
            write_json(self._folder / RESULTS_FILE, record)
        if self._collected:
            console = Console()
            console.print(results_table(self._collected, f"Results at step {self.global_step}"))
            if self._folder is not None:
                console.print(f"Results: {self._folder / RESULTS_FILE}", soft_wrap=True, highlight=False)


def results_table(results: Mapping[str, MetricResult], title: str) -> Table:
    """One row per metric: value, interval, number of items, tolerance where there is one."""
    table = Table(title=title)
    table.add_column("metric")
    for heading in ("value", "95 % interval", "n", "tolerance"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        tolerance = result.details.get("tolerance_s")
        table.add_row(
            name,
            f"{result.value:.2f}",
            result.interval_text,
            str(result.n),
            f"{tolerance:.3g} s" if isinstance(tolerance, float) else "",
        )
        for part, entry in _parts_of(result):
            table.add_row(f"  {part}", f"{entry.value:.2f}", entry.interval_text, str(entry.n), "")
    return table


def _parts_of(result: MetricResult) -> Iterator[tuple[str, MetricResult]]:
    """Parts of a benchmark and languages with a value of their own; kinds of scene would fill the screen."""
    groups = cast(Mapping[str, Mapping[str, Mapping[str, Any]]], result.details.get("groups", {}))
    for division, parts in groups.items():
        if division == FOLDER or [entry["n"] for entry in parts.values()] == [result.n]:
            continue  # a part that is everything is the row above
        for part, entry in parts.items():
            yield part, MetricResult(entry["value"], tuple(entry["ci95"]), entry["n"])


def write_json(file: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen in part."""
    # NaN is no JSON: refused here rather than by whoever reads the file
    text = json.dumps(record, indent=2, allow_nan=False, default=str) + "\n"
    with whole_file(file) as stream:
        stream.write(text.encode())


def _judges(trainer: Trainer) -> list[EvaluationCallback]:
    """Callbacks that have measured something in this evaluation; the same on every rank."""
    return [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, EvaluationCallback) and callback.metrics and callback.results
    ]


def _throughput(trainer: Trainer) -> dict[str, float]:
    """Figures of the whole training; nothing where nobody measured."""
    return {
        name: value
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, Throughput)
        for name, value in callback.throughput.items()
    }


def _entry(result: MetricResult) -> dict[str, object]:
    entry = {"value": result.value, "ci95": list(result.ci95), "n": result.n, **result.details}
    return {name: _finite(item) for name, item in entry.items()}


def _finite(item: object) -> object:
    """JSON knows no NaN: an interval or spread over one item becomes null."""
    if isinstance(item, float):
        return item if math.isfinite(item) else None
    if isinstance(item, Mapping):
        return {key: _finite(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_finite(value) for value in item]
    return item
