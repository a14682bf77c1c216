"""Looks through a parsed configuration for what cannot hold, before models are built and large files are read."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from callbacks.evaluation import EvaluationCallback
from components.errors import InputError
from components.weights.named_files import check_named_files
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.command_line.class_paths import did_you_mean, found_at
from lightning_modules.command_line.startup import OWN_PACKAGES

Section = Mapping[str, Any]

_WATCH = ("ModelCheckpoint", "EarlyStopping", "ReduceLROnPlateau")
_LIGHTNINGS = ("epoch", "step")

_LOGGERS = {
    "WandbLogger": ("wandb", "wandb"),
    "CometLogger": ("comet_ml", "comet-ml"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "NeptuneLogger": ("neptune", "neptune"),
    "LitLogger": ("litlogger", "litlogger"),
}
"""Lightning's loggers that need a library of their own: its module and what pip calls it."""

_PRECISIONS = {
    "bf16-true": "bf16-mixed",
    "16-true": "16-mixed",
    "64-true": "32-true",
    "64": "32-true",
}
"""Precisions of all weights, and what to use instead."""


def check_settings(subcommand: str, config: Section) -> None:
    """Refuses settings that would end or mislead the run later.

    Args:
        subcommand: ``fit``, ``validate``, ``test``, ``predict`` or ``export``.
        config: the configuration of the subcommand, as nested dictionaries.

    Raises:
        InputError: naming the setting, the value found and the fix.
    """
    model, data, trainer = (_arguments(config.get(name)) for name in ("model", "data", "trainer"))
    _check_loggers(config)
    if subcommand != "export":  # which takes the weights as they are, and reads no clips
        _check_precision(config)
    if subcommand == "fit":
        _check_optimizer(model.get("optimizer"))
        _check_schedule(model.get("lr_scheduler"), _arguments(model.get("optimizer")), trainer)
        _check_monitors(config)
        of_model = getattr(_class_of(config.get("model")), "check_settings", None)
        if of_model is not None:
            of_model(model, data, trainer)
    # export reads no clips
    check_files({name: section for name, section in config.items() if subcommand != "export" or name != "data"})


def check_clip_is_taken(data: Namespace | None, clip: Namespace | None) -> None:
    """A section ``clip`` goes with data that have an argument for it.

    Raises:
        InputError: if they have none.
    """
    if data is not None and clip is not None and "clip" not in data.get("init_args", {}):
        raise InputError(
            f"clip describes the clips, but {data.class_path} takes no clip: give it an argument "
            "'clip: ClipShape | None', or set clip to null"
        )


def check_files(config: Section) -> None:
    """Looks for everything that the classes of ``config`` read.

    Raises:
        InputError: naming the key, if a file, weights or data are missing and are no hub repository that might be
            fetched.
    """
    for key, section in sections(config, ""):
        check_named_files(_class_of(section), _arguments(section), key)


def sections(value: Any, key: str) -> Iterator[tuple[str, Section]]:
    """Everything in a configuration that names a class, with its key as options write it."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield key, value
        for name, inner in value.items():
            yield from sections(inner, key if name == "init_args" else f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from sections(inner, f"{key}.{index}")


def _arguments(section: Any) -> Section:
    """What a class is given; the section itself where it names none."""
    if not isinstance(section, Mapping):
        return {}
    return section.get("init_args") or {} if "class_path" in section else section


def _class_of(section: Any) -> Any:
    return found_at(section["class_path"]) if isinstance(section, Mapping) and "class_path" in section else None


def _check_loggers(config: Section) -> None:
    for key, section in sections(_arguments(config.get("trainer")).get("logger"), "trainer.logger"):
        name = section["class_path"].rpartition(".")[2]
        module, package = _LOGGERS.get(name, (None, None))
        if module is not None and importlib.util.find_spec(module) is None:
            raise InputError(f"{key} is {name}, but {package} is not installed: pip install {package}")


def _check_precision(config: Section) -> None:
    data = _class_of(config.get("data"))
    if not (isinstance(data, type) and issubclass(data, OrderedDataModule)):
        return  # a user's own batches may be of any form
    precision = str(_arguments(config.get("trainer")).get("precision"))
    if instead := _PRECISIONS.get(precision):
        raise InputError(
            f"trainer.precision is {precision}, but weights that train are kept in float32 here (small steps are lost "
            f"in less) and codecs in the precision of their own dtype; use {instead}"
        )


def _check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, Mapping) and optimizer.get("class_path", "").rpartition(".")[2] == "Muon":
        raise InputError(
            f"model.optimizer is {optimizer['class_path']}, which takes matrices alone; use "
            "components.optimization.MuonAdamW, which leaves norms, biases and convolutions to AdamW"
        )


def _check_schedule(schedule: Any, optimizer: Section, trainer: Section) -> None:
    max_steps = trainer.get("max_steps")
    steps = max_steps if isinstance(max_steps, int) and max_steps > 0 else None
    for key, section, length in _schedules(schedule, steps):
        path, given = section["class_path"], _arguments(section)
        if path == "torch.optim.lr_scheduler.ReduceLROnPlateau":
            raise InputError(
                f"{key} is {path}, which is not told what to watch; use lightning.pytorch.cli.ReduceLROnPlateau with "
                "its monitor"
            )
        if path.rpartition(".")[2] != "OneCycleLR":
            continue
        total = given.get("total_steps") or (given.get("epochs") or 0) * (given.get("steps_per_epoch") or 0)
        if total and length is not None and total < length:
            raise InputError(
                f"{key}.total_steps is {total}, but the schedule is stepped {length} times (trainer.max_steps is "
                f"{max_steps}); set total_steps to {length}"
            )
        _check_peak(key, given.get("max_lr"), optimizer)


def _schedules(schedule: Any, steps: int | None) -> Iterator[tuple[str, Section, int | None]]:
    """Every schedule in use, its key, and how often it is stepped (None: nobody knows)."""
    key = "model.lr_scheduler"
    if not isinstance(schedule, Mapping) or "class_path" not in schedule:
        return
    yield key, schedule, steps
    given = _arguments(schedule)
    if schedule["class_path"].rpartition(".")[2] == "ScheduleSequence":
        bounds = [0, *given["milestones"], steps]
        for index, part in enumerate(given["schedules"]):
            if isinstance(part, Mapping):
                begin, end = bounds[index : index + 2]
                yield f"{key}.schedules.{index}", part, None if end is None else end - begin


def _check_peak(key: str, max_lr: Any, optimizer: Section) -> None:
    """OneCycleLR knows its own rate: another one of the optimizer is never used."""
    rate = optimizer.get("lr")
    if not isinstance(rate, int | float) or not isinstance(max_lr, int | float) or rate == max_lr:
        return
    if rate != _DEFAULT_RATE:
        raise InputError(
            f"model.optimizer.lr is {rate:g}, but {key} goes by its own max_lr, {max_lr:g}; set both to the same rate"
        )
    rank_zero_info(f"{key} goes by its max_lr, {max_lr:g}; model.optimizer.lr, {rate:g}, is not used")


_DEFAULT_RATE = inspect.signature(importlib.import_module("torch.optim").AdamW).parameters["lr"].default
"""What stands in ``lr`` where nobody has set it."""


def _check_monitors(config: Mapping[str, Any]) -> None:
    """Refuses the name of a metric that nothing logs; a class of the user's own may log anything.

    Args:
        config: the configuration of ``fit``, as nested dictionaries.

    Raises:
        InputError: naming what is logged.
    """
    model = config["model"]
    callbacks = [item for _, item in _callbacks(config)]
    owners = [found_at(section["class_path"]) for section in (model, *callbacks)]
    if not all(owner is not None and owner.__module__.startswith((*OWN_PACKAGES, "lightning.")) for owner in owners):
        return
    given = model.get("init_args") or {}
    variants = given.get("variants") or (given.get("generation") or {}).get("variants") or ()
    known = [*getattr(owners[0], "logged_names", ()), *_LIGHTNINGS]
    for owner, callback in zip(owners[1:], callbacks, strict=True):
        if isinstance(owner, type) and issubclass(owner, EvaluationCallback):
            known += owner.logged_names(callback.get("init_args") or {}, variants)
    watching = [*_callbacks(config), ("model.lr_scheduler", given.get("lr_scheduler"))]
    for key, section in watching:
        if not isinstance(section, Mapping) or section["class_path"].rpartition(".")[2] not in _WATCH:
            continue
        monitor = (section.get("init_args") or {}).get("monitor")
        if monitor is not None and not any(fnmatchcase(monitor, name) for name in known):
            fix = did_you_mean(monitor, known) or "correct the name"
            raise InputError(f"{key}.monitor is '{monitor}', which nothing logs; {fix} (logged: {', '.join(known)})")


def _callbacks(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The callbacks of the list and those with names, with their keys."""
    listed = (config.get("trainer") or {}).get("callbacks") or []
    for index, section in enumerate(listed if isinstance(listed, list) else [listed]):
        yield f"trainer.callbacks.{index}", section
    for name, section in (config.get("callbacks") or {}).items():
        if section is not None:
            yield f"callbacks.{name}", section
