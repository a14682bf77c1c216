"""Whether what callbacks and schedules watch is ever logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from callbacks.evaluation import EvaluationCallback
from components.errors import InputError
from lightning_modules.command_line.class_paths import did_you_mean, found_at
from lightning_modules.command_line.startup import OWN_PACKAGES

_WATCH = ("ModelCheckpoint", "EarlyStopping", "ReduceLROnPlateau")
_LIGHTNINGS = ("epoch", "step")


def check_monitors(config: Mapping[str, Any]) -> None:
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
            known += owner.logged_names((callback.get("init_args") or {}).get("name"), variants)
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
