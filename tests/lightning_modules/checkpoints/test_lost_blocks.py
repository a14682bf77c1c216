"""A block that a disk loses anywhere in what we write is refused, or what it held is made anew: never used."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.codecs.latent_statistics import LatentStatistics
from components.encoders.text.cached import CachedText
from components.encoders.text.pyramid_flow_folder import PyramidFlowTextFolder
from components.errors import InputError
from components.v2a.onset_v2a import OnsetV2A
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.check import check_checkpoint
from lightning_modules.checkpoints.sharded import write_shards
from tests.lightning_modules.checkpoints.lost_blocks import BLOCK, lose_block
from tests.public_folders.text import write_miniflux_text

NUM_OFFSETS = 6
DAMAGED = r"is damaged|is no file of latent statistics|is truncated or no checkpoint"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def checkpoint() -> dict[str, object]:
    """Its bytes are nowhere zero for long, so that every lost block matters."""
    weights: dict[str, Tensor] = {f"layer{i}": torch.rand(9000) + 1 for i in range(3)}
    state = {"state": {0: {"exp_avg": torch.rand(9000) + 1}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {"state_dict": weights, "optimizer_states": [state], "pytorch-lightning_version": "2.6.0"}


def a_file(place: Path, name: str) -> tuple[Path, Callable[[], object]]:
    AtomicCheckpointIO().save_checkpoint(checkpoint(), place / name)
    return place / name, lambda: check_checkpoint(str(place / name))


def a_folder(place: Path, part: str) -> tuple[Path, Callable[[], object]]:
    folder = place / "last.ckpt"
    folder.mkdir()
    write_shards(checkpoint(), folder, is_global_zero=True)
    return folder / part, lambda: AtomicCheckpointIO().load_checkpoint(folder)


def an_export(place: Path) -> tuple[Path, Callable[[], object]]:
    OnsetV2A(height=16, width=16).save_pretrained(place / "v2a")
    return place / "v2a" / "model.safetensors", lambda: OnsetV2A.from_pretrained(place / "v2a")


def statistics(place: Path) -> tuple[Path, Callable[[], object]]:
    LatentStatistics.of(torch.randn(2, 400, 5)).save(place / "statistics.json")
    return place / "statistics.json", lambda: LatentStatistics.load(place / "statistics.json")


WRITTEN: dict[str, Callable[[Path], tuple[Path, Callable[[], object]]]] = {
    "last.ckpt": lambda place: a_file(place, "last.ckpt"),
    "stopped.ckpt": lambda place: a_file(place, "stopped.ckpt"),
    "shard": lambda place: a_folder(place, "__0_0.distcp"),
    "index of shards": lambda place: a_folder(place, ".metadata"),
    "rest of shards": lambda place: a_folder(place, "meta.pt"),
    "export": an_export,
    "latent statistics": statistics,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_lost_block_is_refused(name: str, tmp_path: Path):
    file, read = WRITTEN[name](tmp_path)
    whole = file.read_bytes()
    read()
    offsets = random.Random(name).choices(range(max(1, (len(whole) + BLOCK - 1) // BLOCK)), k=NUM_OFFSETS)
    for offset in dict.fromkeys(offsets):
        lose_block(file, offset * BLOCK)
        assert file.read_bytes() != whole
        with pytest.raises(InputError, match=DAMAGED):
            read()
        file.write_bytes(whole)
    read()


def test_text_features_are_made_anew(tmp_path: Path):
    write_miniflux_text(tmp_path / "release")
    source = PyramidFlowTextFolder(str(tmp_path / "release"))
    cached = CachedText(source, str(tmp_path / "features"))
    wanted = cached(["a ball"]).tokens
    file = cached.file_of("a ball")
    assert file is not None
    for offset in range(0, file.stat().st_size, BLOCK):
        lose_block(file, offset)
        with pytest.warns(UserWarning, match="are damaged .* and are computed anew"):
            again = CachedText(source, str(tmp_path / "features"))(["a ball"]).tokens
        assert torch.equal(again, wanted)
