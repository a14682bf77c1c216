"""What prepared clips depend on, as plain values: a cache of anything else is refused, naming the first difference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.errors import InputError

Facts = dict[str, Any]
_MAX_SHOWN = 60


def as_json(facts: Mapping[str, Any]) -> Facts:
    """As a JSON file gives them back: tuples are lists and paths are texts."""
    found: Facts = json.loads(json.dumps(facts, sort_keys=True, default=str))
    return found


def refuse_difference(cache: str, there: Mapping[str, Any], here: Mapping[str, Any], of: str) -> None:
    """Compares what a cache was made of with what the experiment says now.

    Args:
        cache: where it lies.
        there: its facts.
        here: the same of the experiment.
        of: what they are about, for the error.

    Raises:
        InputError: naming the first fact that differs, both values and the fix.
    """
    found = first_difference(there, here)
    if found is not None:
        name, was, now = found
        raise InputError(
            f"{cache} was prepared with another {of}: {name} {_shown(was)} there, {_shown(now)} here; prepare it anew "
            "in another folder, or set the experiment as it was"
        )


def first_difference(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name of the first value that differs and both values (None where there is none)."""
    for name in sorted({*there, *here}, key=lambda name: (name != "class", name)):
        was, now = there.get(name), here.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            if found := first_difference(was, now, f"{above}{name}."):
                return found
        elif was != now:
            return f"{above}{name} is", was, now
    return None


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
