"""Kills and signals at random moments of real runs, and whether what goes on ends like a run that nothing happened to.

    python -m tests.interruptions --kills 20 --signals 20 --seed 0 --out DIR

Every case is a run of a tiny Syncphony or of Harmony's quickstart, on one process or two, whole or sharded, with and
without loader workers. It is hit in training, in a validation or while a checkpoint is written: the first process, one
rank or all processes at once. It is then started again with ``--ckpt_path last`` (or from the beginning where it had
not left a whole checkpoint yet), once in four times on another number of processes. Its last checkpoint must hold the
tensors of the undisturbed run bit for bit; where the number of processes changed, sums are taken in another order, and
the largest difference is said. Whatever happened, the last validation has left its results. The table is written to
``DIR/interruptions.md``, case by case.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml

from components.backbones.sharding import whole
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from tests.lightning_modules.strategies.parallel_runs import ROOT, write_config

HERE = "tests.interruptions"
STEPS = 6
SIGNALS = ("SIGTERM", "SIGUSR1", "SIGINT")
STOPPED = 75
MOST_SECONDS = 300.0  # of a run
MOST_SECONDS_TO_END = 60.0  # after it was hit
MOST_DIFFERENCE = 2e-5  # of weights and moments, where the number of processes changed
PARTS = {"class_path": "FSDP2Strategy", "init_args": {"compute_dtype": "float32"}}
FSDP2 = {**PARTS, "init_args": {**PARTS["init_args"], "save_distributed_checkpoint": False}}
LAYOUTS: dict[str, dict[str, Any]] = {
    # one process takes the batches of two, so that the number of processes may change
    "single": {"devices": 1, "accumulate_grad_batches": 2},
    "ddp": {"devices": 2, "strategy": "ddp"},
    "fsdp": {"devices": 2, "strategy": FSDP2},
    "fsdp, parts": {"devices": 2, "strategy": PARTS},
}


class Marks(L.Callback):
    """Appends ``<moment> <process id>`` to ``<file>.<rank>`` whenever a moment begins."""

    def __init__(self, file: str) -> None:
        self.file = file

    def _mark(self, trainer: L.Trainer, moment: str) -> None:
        with Path(f"{self.file}.{trainer.global_rank}").open("a") as stream:
            stream.write(f"{moment} {os.getpid()}\n")

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._mark(trainer, "training")

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._mark(trainer, "validation")

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        self._mark(trainer, "saving")


@dataclass(frozen=True)
class Case:
    """One run that is hit once.

    Attributes:
        system: ``syncphony`` or ``harmony``.
        layout: a key of `LAYOUTS`.
        workers: loader workers of each process.
        blow: ``SIGKILL`` or one of `SIGNALS`.
        target: ``main``, ``rank`` (the last one) or ``group``.
        moment: ``training``, ``validation`` or ``saving``.
        occurrence: which moment of that kind, counted from 1.
        delay_s: from the beginning of the moment.
        resumed_as: layout of the run that goes on.
    """

    system: str
    layout: str
    workers: int
    blow: str
    target: str
    moment: str
    occurrence: int
    delay_s: float
    resumed_as: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case: ``problem`` is empty if all is well."""

    status: int = 0
    seconds_to_end: float = 0.0
    went_on_from: str = ""
    difference: float = 0.0
    problem: str = ""


def random_case(draw: random.Random, blow: str) -> Case:
    """Harmony's runs take longer: one in five."""
    layout = draw.choice(list(LAYOUTS))
    moment = draw.choice(["training", "validation", "saving"])
    other = "single" if layout != "single" else draw.choice(["ddp", "fsdp"])
    system = "harmony" if draw.random() < 0.2 else "syncphony"
    # batches of a kind that every process of a run has: two validations, of Harmony's clips one batch on each rank
    most = {"training": STEPS, "validation": 2 if system == "harmony" else 3, "saving": STEPS - 1}
    return Case(
        system=system,
        layout=layout,
        workers=draw.choice([0, 2]),
        blow=blow,
        target=draw.choice(["main", "group"] if layout == "single" else ["main", "rank", "group"]),
        moment=moment,
        occurrence=draw.randint(1, most[moment]),
        delay_s=draw.uniform(0.0, 0.1),
        resumed_as=other if draw.random() < 0.25 else layout,
    )


def configured(folder: Path, name: str, system: str, layout: str, workers: int) -> list[str]:
    """Writes the configuration of a run; the options that name it."""
    trainer = {"max_steps": STEPS, "val_check_interval": 3, **LAYOUTS[layout]}
    marks = {"class_path": f"{HERE}.Marks", "init_args": {"file": str(folder / name)}}
    saving = {"class_path": "ModelCheckpoint", "init_args": {"save_last": "link", "every_n_train_steps": 1}}
    if system == "syncphony":
        file = write_config(folder, name, workers=workers, **trainer)
        content = yaml.safe_load(file.read_text())
        judge = next(one for one in content["trainer"]["callbacks"] if one["class_path"] == "CycleSyncCallback")
        content["trainer"]["callbacks"] = [judge, {"class_path": "EMA", "init_args": {"decay": 0.5}}, marks, saving]
        files: list[Path] = []
    else:
        file = folder / f"{name}.yaml"
        clips = {"root": str(folder / "faces"), "num_train": 24, "num_test": 5, "num_speakers": 2}
        content = {
            "model": {"init_args": {"sampler": {"init_args": {"num_steps": 2}}}},
            "data": {"init_args": {**clips, "batch_size": 4, "val_batch_size": 3, "num_workers": workers}},
            "trainer": {
                **trainer,
                "log_every_n_steps": 1,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "default_root_dir": str(folder / "runs"),
            },
            "callbacks": {"report": None, "slim": None, "throughput": None, "marks": marks, "checkpoint": saving},
        }
        files = [ROOT / "configs/harmony/quickstart.yaml"]
    file.write_text(yaml.safe_dump(content))
    options = [option for path in [*files, file] for option in ("--config", str(path))]
    return ["fit", *options, "--experiment", name]


class Run:
    """A run in a session of its own; everything it says goes to a file."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lightning_modules", *arguments],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, within_s: float) -> int | None:
        """The exit status, or None if a process of the session is still there after that time."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if self.process.poll() is not None and not _lives(self.process.pid):
                return self.process.returncode
            time.sleep(0.05)
        return None

    def remove(self) -> None:
        """Ends whatever is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def hit(run: Run, case: Case, marks: Path) -> bool:
    """Waits for the moment and strikes; False if the run ended before."""
    rank = 1 if case.target == "rank" else 0
    file, until = Path(f"{marks}.{rank}"), time.monotonic() + MOST_SECONDS
    while time.monotonic() < until and run.process.poll() is None:
        lines = file.read_text().splitlines() if file.is_file() else []
        found = [line.split() for line in lines if line.startswith(case.moment)]
        if len(found) >= case.occurrence:
            time.sleep(case.delay_s)
            one, pid = signal.Signals[case.blow], int(found[-1][1])
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if case.target == "group" else os.kill)(
                    pid if case.target == "rank" else run.process.pid, one
                )
            return True
        time.sleep(0.002)
    return False


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights, averages and moments of a checkpoint, file or folder, by name."""
    content = AtomicCheckpointIO().load_checkpoint(checkpoint)
    moments = {
        f"optimizer.{index}.{name}": value
        for index, values in content["optimizer_states"][0]["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    return {name: whole(value).clone() for name, value in {**content["state_dict"], **moments}.items()}


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest between tensors of the same name."""
    if first.keys() != second.keys():
        raise ValueError(f"other tensors: {sorted(first.keys() ^ second.keys())[:5]}")
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def steps_judged(experiment: Path) -> set[int]:
    """Steps of which a run of the experiment has results."""
    return {json.loads(file.read_text())["global_step"] for file in experiment.glob("version_*/results.json")}


def tried(case: Case, folder: Path, name: str, undisturbed: dict[str, torch.Tensor]) -> Outcome:
    """Runs, strikes, goes on, compares."""
    log = folder / f"{name}.log"
    run = Run(configured(folder, name, case.system, case.layout, case.workers), log)
    try:
        if not hit(run, case, folder / name):
            return Outcome(problem="the run ended before it was hit")
        struck = time.monotonic()
        status = run.ended(MOST_SECONDS_TO_END)
        seconds = time.monotonic() - struck
    finally:
        run.remove()
    outcome = Outcome(status=-999 if status is None else status, seconds_to_end=seconds)
    if status is None:
        return replace(outcome, problem=f"a process was still there after {MOST_SECONDS_TO_END:.0f} s")
    saved = [path for path in (folder / "runs" / name).glob("version_*/checkpoints/*.ckpt") if path.name[0] != "."]
    # a signal that came at the very end finds nothing to stop
    if case.blow != "SIGKILL" and status != 0:
        stopped = any(path.name == "stopped.ckpt" for path in saved)
        if status != STOPPED or not stopped:
            return replace(outcome, problem=f"status {status}, {'' if stopped else 'no '}stopped.ckpt")
    outcome = replace(outcome, went_on_from="last" if saved else "the beginning")
    on = ["--ckpt_path", "last"] if saved else []
    run = Run([*configured(folder, name, case.system, case.resumed_as, case.workers), *on], log)
    try:
        status = run.ended(MOST_SECONDS)
    finally:
        run.remove()
    if status != 0:
        return replace(outcome, problem=f"the run that went on ended with status {status}")
    newest = max(
        (folder / "runs" / name).glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime
    )
    found = difference(tensors_of(newest), undisturbed)
    outcome = replace(outcome, difference=found)
    if STEPS not in steps_judged(folder / "runs" / name):
        return replace(outcome, problem="no results of the last validation")
    allowed = 0.0 if case.resumed_as == case.layout else MOST_DIFFERENCE
    return outcome if found <= allowed else replace(outcome, problem=f"differs by {found:.1e}")


def table(results: list[tuple[Case, Outcome]]) -> str:
    """A row for each case."""
    heads = (
        *("blow", "target", "moment", "system", "layout", "workers", "status", "ended after"),
        *("went on as", "from", "difference", "outcome"),
    )
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for case, outcome in results:
        lines.append(
            f"| {case.blow} | {case.target} | {case.moment} {case.occurrence} | {case.system} | {case.layout} "
            f"| {case.workers} | {outcome.status} | {outcome.seconds_to_end:.1f} s | {case.resumed_as} "
            f"| {outcome.went_on_from} | {outcome.difference:.1e} | {outcome.problem or 'ok'} |"
        )
    failed = sum(bool(outcome.problem) for _, outcome in results)
    return "\n".join([*lines, "", f"{len(results) - failed} of {len(results)} cases ended as they should.", ""])


def interruptions(kills: int, signals: int, seed: int, out: Path) -> list[tuple[Case, Outcome]]:
    """Draws and tries the cases; the table is renewed after each."""
    draw = random.Random(seed)
    blows = ["SIGKILL"] * kills + [SIGNALS[index % len(SIGNALS)] for index in range(signals)]
    cases = [random_case(draw, blow) for blow in blows]
    out.mkdir(parents=True, exist_ok=True)
    results: list[tuple[Case, Outcome]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole_runs: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        for index, case in enumerate(cases):
            key = (case.system, case.layout)
            if key not in whole_runs:
                name = f"whole_{len(whole_runs)}"
                run = Run(configured(folder, name, *key, workers=0), out / f"{name}.log")
                status = run.ended(MOST_SECONDS)
                run.remove()
                if status != 0:
                    raise RuntimeError(f"the undisturbed run of {key} ended with status {status}: see {run.log}")
                whole_runs[key] = tensors_of(folder / "runs" / name / "version_0/checkpoints/last.ckpt")
            outcome = tried(case, folder, f"case_{index}", whole_runs[key])
            results.append((case, outcome))
            if outcome.problem:
                shutil.copy(folder / f"case_{index}.log", out)
            shutil.rmtree(folder / "runs" / f"case_{index}", ignore_errors=True)
            (out / "interruptions.md").write_text(table(results))
            records = [{**asdict(case), **asdict(outcome)} for case, outcome in results]
            (out / "interruptions.json").write_text(json.dumps(records, indent=1))
            sys.stdout.write(f"{table(results).splitlines()[len(results) + 1]}\n")
            sys.stdout.flush()
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed")
    parser.add_argument("--signals", type=int, default=20, help="runs that are told to stop")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn for the cases")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and of the logs of what failed")
    options = parser.parse_args()
    ended = interruptions(options.kills, options.signals, options.seed, options.out)
    sys.exit(any(outcome.problem for _, outcome in ended))
