"""Training steps through the real command line, each in a process of its own: one card, and sharded over one rank."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.gpu.rows import ROOT, Notes, Place
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO

QUICKSTART = ROOT / "configs/quickstart.yaml"
HARMONY = ROOT / "configs/harmony/quickstart.yaml"
_LINES = 60


class CommandFailed(RuntimeError):
    """A command of avsync ended with another status than 0."""


def fit(place: Place, folder: Path, configs: Sequence[Path], options: Sequence[str]) -> float:
    """``avsync fit`` on the device; what it says goes into ``folder``. Returns seconds.

    Raises:
        CommandFailed: with the last lines it wrote.
    """
    files = [argument for config in configs for argument in ("--config", str(config))]
    command = [sys.executable, "-m", "lightning_modules", "fit", *files, *options]
    command += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false", "--trainer.devices=1"]
    if place.is_rehearsal:
        command.append("--trainer.accelerator=cpu")
    # Lightning and NCCL read these; without the second cuBLAS refuses to be deterministic
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin, log = time.perf_counter(), folder / "log.txt"
    with log.open("a") as output:
        run = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)
    if run.returncode:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-_LINES:])
        raise CommandFailed(f"{' '.join(command[2:])} ended with status {run.returncode}:\n{said}")
    return time.perf_counter() - begin


def without_media(experiment: Path, folder: Path) -> Path:
    """The experiment on random clips instead of files, without callbacks (reports are videos)."""
    config = with_its_bases(experiment)
    config["data"] = {"class_path": "benchmarks.gpu.random_clips.RandomClips", "init_args": {"batch_size": 4}}
    config["trainer"] |= {"callbacks": [], "log_every_n_steps": 1}
    config.pop("callbacks", None)
    for name in ("accelerator", "precision"):
        config["trainer"].pop(name, None)
    file = folder / experiment.name
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def with_its_bases(file: Path) -> dict[str, Any]:
    """The experiment with the files it builds on, as one."""
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    base = config.pop("base", None)
    return config if base is None else merged(with_its_bases(file.parent / base), config)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Key by key; where both have something that is no dictionary, ``above`` wins."""
    both = {key: merged(below[key], above[key]) for key in below.keys() & above if isinstance(above[key], dict)}
    return {**below, **above, **both}


def trainer_config(place: Place, name: str) -> list[Path]:
    """The configuration for the kind of machine; the CPU's own for a rehearsal of ``gpu``."""
    return [ROOT / "configs/trainer" / ("cpu.yaml" if place.is_rehearsal and name == "gpu" else f"{name}.yaml")]


def checkpoint_path(folder: Path, step: int) -> Path:
    """What the only run below ``folder`` saved after so many steps: a file, or a folder of shards."""
    (path,) = folder.glob(f"*/version_*/checkpoints/*step={step}.ckpt")
    return path


def checkpoint(path: Path) -> dict[str, Any]:
    """Its content, on the CPU, shards put together."""
    return AtomicCheckpointIO().load_checkpoint(path)


def saved_every_step() -> str:
    """The option that keeps the checkpoint of every step."""
    name = "lightning.pytorch.callbacks.ModelCheckpoint"
    return f"--trainer.callbacks=[{{class_path: {name}, init_args: {{every_n_train_steps: 1, save_top_k: -1}}}}]"


def check_one_card(experiment: Path, place: Place, notes: Notes) -> None:
    """Two steps and a validation of a quickstart with ``configs/trainer/gpu.yaml``."""
    folder = place.new_folder("one_card")
    configs = [without_media(experiment, folder), *trainer_config(place, "gpu")]
    options = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
    seconds = fit(place, folder, configs, [*options, saved_every_step()])
    saved = checkpoint(checkpoint_path(folder, 2))
    notes.value(command_s=seconds, global_step=saved["global_step"])
    notes.require("two steps", saved["global_step"] == 2)
    notes.require("finite weights", all(bool(tensor.isfinite().all()) for tensor in floats(saved["state_dict"])))


def check_sharded(place: Place, notes: Notes) -> None:
    """Two steps with ``configs/trainer/fsdp.yaml`` on one rank, and the second again from the first's checkpoint."""
    folder = place.new_folder("sharded")
    options = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.deterministic=warn"]
    found = {}
    for name in ("whole", "resumed"):
        run = folder / name
        run.mkdir()
        configs = [without_media(QUICKSTART, run), *trainer_config(place, "fsdp")]
        notes.value(**{f"{name}_s": fit(place, run, configs, [*options, saved_every_step()])})
        found[name] = checkpoint(checkpoint_path(run, 2))
        if name == "whole":
            after_one = checkpoint_path(run, 1)
            found["first"] = checkpoint(after_one)
            options.append(f"--ckpt_path={after_one}")
    notes.require("as many steps", found["whole"]["global_step"] == found["resumed"]["global_step"] == 2)
    for part in ("state_dict", "optimizer_states"):
        whole, resumed = (floats(found[name][part]) for name in ("whole", "resumed"))
        same = len(whole) == len(resumed) and all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
        notes.require(f"{part} bit-equal", same)
        if not same and len(whole) == len(resumed):
            apart = [float((a.double() - b.double()).abs().max()) for a, b in zip(whole, resumed, strict=True)]
            notes.value(**{f"{part}_largest_difference": max(apart)})
    moved = [not torch.equal(a, b) for a, b in zip(floats(found["first"]["state_dict"]),
                                                   floats(found["whole"]["state_dict"]), strict=True)]  # fmt: skip
    notes.require("the second step changes weights", any(moved))


def check_quickstart(place: Place, notes: Notes) -> None:
    """One step of the quickstart as it stands, with rendered clips, sampling and the judge."""
    folder = place.new_folder("quickstart")
    few = ["--data.num_train=4", "--data.num_test=2", "--data.batch_size=4", "--data.val_batch_size=2"]
    few += [f"--data.root={folder / 'clips'}", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    callbacks = "[{class_path: callbacks.cyclesync.CycleSyncCallback, init_args: {v2a: {class_path: "
    callbacks += "components.v2a.onset_v2a.OnsetV2A.from_pretrained, init_args: {folder: "
    callbacks += "configs/weights/quickstart_v2a}}, tolerance_s: 0.05}}]"
    seconds = fit(
        place, folder, [QUICKSTART, *trainer_config(place, "gpu")], [*few, f"--trainer.callbacks={callbacks}"]
    )
    notes.value(command_s=seconds)
    notes.require("results", bool(list(folder.glob("*/version_*/results.json"))))


def floats(content: Any) -> list[Tensor]:
    """All floating-point tensors of nested dictionaries and lists, in their order."""
    if isinstance(content, Tensor):
        return [content] if content.is_floating_point() else []
    items = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for item in items for tensor in floats(item)]
