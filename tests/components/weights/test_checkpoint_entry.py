"""Weights within training checkpoints: read beside arrays of samplers, refused where code would run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from components.errors import InputError
from components.weights.checkpoint_entry import open_entry


class Malice:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_tensors_beside_numbers_and_arrays(tmp_path: Path):
    weight = torch.randn(3, 2)
    others = {"step": 5, "sampler": {"order": np.arange(4), "seen": np.float32(2), "names": ["a"]}, "loss": np.ones(2)}
    for zipped in (True, False):  # pickles from before torch 1.6 are no zip files
        torch.save({"model": {"w": weight.T}, **others}, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
        opened = open_entry(tmp_path / "c.pt", "model")
        assert torch.equal(opened.tensors["w"], weight.T) and opened.files == (tmp_path / "c.pt",)


def test_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.zeros(1)}, "args": Malice()}, "c.pt")
    with pytest.raises(InputError, match=r"holds code, \S*mkdir, which is never run"):
        open_entry("c.pt", "model")
    assert not Path("pwned").exists()


def test_other_files(tmp_path: Path):
    with pytest.raises(InputError, match=r"c\.pt' does not exist"):
        open_entry(tmp_path / "c.pt", "model")
    torch.save({"state": {"w": torch.zeros(1)}}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"no tensors under 'model' \(it has: state\)"):
        open_entry(tmp_path / "c.pt", "model")
    (tmp_path / "c.pt").write_bytes(b"")
    with pytest.raises(InputError, match="is not a readable checkpoint"):
        open_entry(tmp_path / "c.pt", "model")
