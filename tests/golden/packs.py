"""Finds the golden packs of metrics: every file of a form, those that are kept elsewhere too (``--golden-dir``)."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

Sources = Mapping[str, tuple[str, str | None]]
"""Fixture -> pattern of its JSON files, and the key of their list of cases (None: a file is a case)."""


def parametrized(
    metafunc: pytest.Metafunc, sources: Sources, made: Callable[[Path, dict[str, Any], int, dict[str, Any]], Any]
) -> None:
    """Gives each fixture ``made(tensors, pack, index, case)`` of every case, with the path of the pack's tensors."""
    for fixture, (pattern, key) in sources.items():
        if fixture in metafunc.fixturenames:
            params = {}
            for file in sorted((metafunc.config.getoption("--golden-dir") / "metrics").glob(pattern)):
                pack = json.loads(file.read_text())
                for index, case in enumerate(pack[key] if key else [pack]):
                    params[f"{file.name}-{index}"] = made(file.with_suffix(".safetensors"), pack, index, case)
            metafunc.parametrize(fixture, params.values(), ids=params.keys())
