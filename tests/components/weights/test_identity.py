"""Which weights a module holds, and that large files are hashed once."""

import copy
import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from components.errors import InputError
from components.weights import identity
from components.weights.identity import (
    Identity,
    forget_identity,
    identity_of,
    inherit_identity,
    record_identity,
    recorded_identity,
    sha256_of,
    sha256_of_tensors,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "avsync" / "sha256"


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_REMEMBERED_BYTES", 1)


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_a_module_that_came_from_no_file_is_its_tensors():
    torch.manual_seed(0)
    module = nn.Linear(2, 3)
    assert identity_of(module) == Identity("Linear", sha256_of_tensors(module.state_dict()))
    before = identity_of(module)
    module.bias.data[0] += 1
    assert identity_of(module) != before


def test_one_file_has_the_digest_that_sha256sum_prints(tmp_path: Path):
    module = nn.Linear(1, 1)
    given = record_identity(module, "owner/name", [written(tmp_path / "w.safetensors", b"abc")])
    assert given == identity_of(module) == Identity("owner/name", hashlib.sha256(b"abc").hexdigest())
    assert identity_of(copy.deepcopy(module)) == identity_of(pickle.loads(pickle.dumps(module))) == given
    assert "identity" not in str(list(module.state_dict()))


def test_several_files_count_by_name_and_content_in_any_order(tmp_path: Path):
    module = nn.Linear(1, 1)
    files = [written(tmp_path / name, name.encode()) for name in ("b", "a")]
    digest = record_identity(module, "m", files).sha256
    assert record_identity(module, "m", files[::-1]).sha256 == digest
    written(files[0], b"changed")
    assert record_identity(module, "m", files).sha256 != digest


def test_a_wrapper_has_the_identity_of_its_part(tmp_path: Path):
    part, wrapper, other = nn.Linear(1, 1), nn.Sequential(), nn.Sequential()
    inherit_identity(other, part)
    assert identity_of(other).name == "Sequential"
    record_identity(part, "part", [written(tmp_path / "w", b"abc")])
    inherit_identity(wrapper, part)
    assert identity_of(wrapper) == identity_of(part)


def test_sha256_of_a_small_file_leaves_no_note(tmp_path: Path, cache: Path):
    file = written(tmp_path / "f", b"abc" * 100_000)
    assert sha256_of(file) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert not cache.exists()
    with pytest.raises(InputError, match=r"cannot read '.*none'"):
        sha256_of(tmp_path / "none")


def test_a_large_file_is_hashed_once(tmp_path: Path, cache: Path, all_large: None, monkeypatch: pytest.MonkeyPatch):
    file = written(tmp_path / "f", b"abc")
    digest = sha256_of(file)
    assert [note.read_text().strip() for note in cache.iterdir()] == [digest]
    (link := tmp_path / "link").symlink_to(file)  # as the hub's cache has them
    monkeypatch.setattr(hashlib, "file_digest", None)  # reading the file again would fail
    assert sha256_of(file) == sha256_of(link) == digest


def test_a_changed_file_is_hashed_again(tmp_path: Path, all_large: None):
    file = written(tmp_path / "f", b"abc")
    stat = file.stat()
    sha256_of(file)
    written(file, b"abd")  # the same size
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert sha256_of(file) == hashlib.sha256(b"abd").hexdigest()


@pytest.mark.parametrize("damage", [b"", b"half", b"\xff\xfe" * 40])
def test_a_damaged_note_is_not_believed(tmp_path: Path, cache: Path, all_large: None, damage: bytes):
    file = written(tmp_path / "f", b"abc")
    digest = sha256_of(file)
    (note,) = cache.iterdir()
    note.write_bytes(damage)
    assert sha256_of(file) == digest
    assert note.read_text().strip() == digest


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, all_large: None):
    written(tmp_path / "cache", b"a file where the folder should be")
    assert sha256_of(written(tmp_path / "f", b"abc")) == hashlib.sha256(b"abc").hexdigest()


def test_many_writers_leave_one_whole_note(tmp_path: Path, cache: Path, all_large: None):
    file = written(tmp_path / "f", b"abc" * 1000)
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(sha256_of, [file] * 64))
    assert digests == {hashlib.sha256(b"abc" * 1000).hexdigest()}
    assert len(list(cache.iterdir())) == 1


def test_sha256_of_tensors_sees_names_shapes_types_and_values():
    tensors = {"a": torch.arange(6.0).view(2, 3), "scale": torch.tensor(2.0)}
    digest = sha256_of_tensors(tensors)
    assert sha256_of_tensors(dict(reversed(tensors.items()))) == digest
    others = [
        {"b": tensors["a"], "scale": tensors["scale"]},
        {**tensors, "a": tensors["a"].view(3, 2)},
        {**tensors, "a": tensors["a"].bfloat16()},
        {**tensors, "scale": torch.tensor(2.1)},
    ]
    assert len({sha256_of_tensors(other) for other in others} | {digest}) == 5


def test_a_module_given_other_weights_is_its_tensors_again(tmp_path: Path):
    module = nn.Linear(2, 3)
    recorded = record_identity(module, "release", [written(tmp_path / "a.bin", b"weights")])
    assert identity_of(module) == recorded_identity(module) == recorded
    for _ in range(2):
        forget_identity(module)
        assert recorded_identity(module) is None
        assert identity_of(module).name == "Linear"
