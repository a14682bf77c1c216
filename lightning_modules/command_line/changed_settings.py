"""Going on with other settings than a checkpoint was made with: which ones differ, and which cannot."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_info

from components.errors import InputError
from lightning_modules.checkpoints.sharded import read_table

OPTIMIZER, SCHEDULE = "model.optimizer", "model.lr_scheduler"
ACCUMULATED = "trainer.accumulate_grad_batches"
_OF_THE_RUN = ("config", "base", "experiment", "ckpt_path", "weights_only", "trainer.default_root_dir")
"""Where a run is and what it was made from: no setting of what is trained."""
_ADAM = {"torch.optim.Adam", "torch.optim.AdamW"}
"""Their state has one form."""
_MAX_LISTED, _MAX_WIDTH = 30, 60


@dataclass(frozen=True)
class Change:
    """A setting that differs.

    Attributes:
        key: as short as options may be: ``model.optimizer.lr``.
        before: what the checkpoint was made with.
        now: what the configuration says.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.now)}"


def changes_since(path: str, now: Mapping[str, Any]) -> list[Change]:
    """How a configuration differs from the one that a checkpoint was made with; says so.

    Args:
        path: of the checkpoint, file or folder.
        now: the configuration.

    Raises:
        InputError: if the checkpoint's optimizer cannot go on as the one that is configured.
    """
    before = stored_config(path)
    if before is None:
        return []
    found = changes(before, now)
    refuse_other_optimizer(found, path)
    if found:
        rank_zero_info(listed(found, path))
    return found


def stored_config(path: str) -> dict[str, Any] | None:
    """The configuration that a checkpoint, file or folder, was made with; None if it does not say."""
    try:
        if Path(path).is_dir():
            content = read_table(Path(path))[0]
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:  # code, which the user may trust later
        return None
    text = content.get("config_yaml")
    found = yaml.safe_load(text) if isinstance(text, str) else None
    return found if isinstance(found, dict) else None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs between two configurations, sorted by key; of another class, only that it is another."""
    found = _differences(before, now, "")
    return sorted((change for change in found if change.key not in _OF_THE_RUN), key=lambda change: change.key)


def listed(found: Sequence[Change], path: str) -> str:
    """Changes for people, a line each."""
    lines = [f"going on from '{path}' with other settings than it was made with; the new ones count:"]
    lines += [f"  {change}" for change in found[:_MAX_LISTED]]
    if len(found) > _MAX_LISTED:
        lines.append(f"  and {len(found) - _MAX_LISTED} more")
    return "\n".join(lines)


def below(found: Sequence[Change], *sections: str) -> list[Change]:
    """The changes in sections of the configuration."""
    return [change for change in found if any(f"{change.key}.".startswith(f"{section}.") for section in sections)]


def refuse_other_optimizer(found: Sequence[Change], path: str) -> None:
    """The moments in a checkpoint are those of one kind of optimizer.

    Raises:
        InputError: if the changes make another optimizer of it, naming both.
    """
    for change in found:
        if change.key == OPTIMIZER and not {change.before, change.now} <= _ADAM:
            problem = f"was made with {change.before}, whose state does not fit {change.now}"
        elif change.key == f"{OPTIMIZER}.amsgrad" and change.now:
            problem = "was made without amsgrad and lacks what it needs"
        else:
            continue
        raise InputError(
            f"{change.key}: ckpt_path '{path}' {problem}; keep the optimizer, or begin anew with the weights alone "
            "(init_from)"
        )


def _differences(before: Any, now: Any, key: str) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        if before.get("class_path") != now.get("class_path"):
            yield Change(key, before.get("class_path", before), now.get("class_path", now))
            return
        for name in {**before, **now}:
            # left out as in options, where nobody writes it
            place = key if name == "init_args" else f"{key}.{name}" if key else name
            yield from _differences(before.get(name), now.get(name), place)
    elif _are_sections(before) and _are_sections(now) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(*pair, f"{key}.{index}")
    elif before != now:
        yield Change(key, before, now)


def _are_sections(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        value = value["class_path"]
    if _are_sections(value) and value:
        return ", ".join(str(item.get("class_path", "...")).rpartition(".")[2] for item in value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
    return text if len(text) <= _MAX_WIDTH else f"{text[: _MAX_WIDTH - 3]}..."
