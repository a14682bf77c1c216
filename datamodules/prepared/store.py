"""Writing a cache: a plan first, shards in any order by any number of processes, the index last.

``plan.json`` says what the cache is of and which clips are in which shard, so that every process, and every run after a
kill, writes the same bytes. A shard is written in a folder of its own and renamed when it is on the disk; its record
``shard-N.json`` follows. Where all records are, ``index.json`` is written: it says that the cache is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.weights.whole_file import sync_folder, sync_stream, whole_file
from datamodules.prepared.identity import as_json, refuse_difference
from datamodules.prepared.streaming import INDEX, OURS, PLAN, litdata

FORMAT = 1
_MOST_BYTES = 2**32 - 2**20
"""In a chunk, where litdata counts in 32 bits; some are left for its table."""
_OF_PLAN = {"parts": "model", "clips": "data set"}


@dataclass(frozen=True)
class Plan:
    """What is in a cache.

    Attributes:
        parts: codecs and encoders by their roles: class, arguments, weights.
        clips: what decides the clips (`facts_of_clips`).
        identities: names and SHA-256 of the parts' weights by their roles, as checkpoints note them.
        offsets: clips of each recording.
        num_recordings: training recordings.
        clips_per_shard: clips in a shard, the last one excepted.
        dtype: what float32 tensors are kept in.
        format: of the files.
    """

    parts: Mapping[str, Any]
    clips: Mapping[str, Any]
    identities: Mapping[str, Mapping[str, str]]
    offsets: int
    num_recordings: int
    clips_per_shard: int
    dtype: str
    format: int = FORMAT

    @property
    def num_clips(self) -> int:
        """Clips of all recordings."""
        return self.num_recordings * self.offsets

    @property
    def num_shards(self) -> int:
        """Shards; one item more than there are clips: the empty texts, at the end."""
        return -(-(self.num_clips + 1) // self.clips_per_shard)

    def items_of(self, shard: int) -> range:
        """Numbers of the items in a shard; item ``r * offsets + k`` is clip k of recording r."""
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, self.num_clips + 1))


class Store:
    """A folder that becomes a cache.

    Args:
        folder: where it is to be; made if it is not there.
        plan: what is to be in it.

    Raises:
        InputError: if the folder holds anything else, or a cache of something else.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        litdata()  # now, not after the first shard's encoding
        self.folder, self.plan = folder, plan
        with _no_half_disk(folder):
            held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            # dot files are of a run that was killed before it had a plan
            other = [name for name in held if not name.startswith(".")]
            if other and PLAN not in held:
                raise InputError(f"{folder} is not empty (it has {other[0]}); give a new folder to --out")
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder / ".plan.lock", wait=True):
                self._settle_plan()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be done."""
        return (self.folder / INDEX).is_file()

    def has(self, shard: int) -> bool:
        """Whether a shard is there, whole."""
        record, chunk = self._record(shard), self.folder / _file_of(shard)
        if not (record.is_file() and chunk.is_file()):
            return False
        # either may have been cut off in copying; to train on it is refused, and here it is written anew
        try:
            size = json.loads(record.read_bytes())["chunk"]["chunk_bytes"]
        except (ValueError, LookupError, TypeError):
            return False
        return bool(chunk.stat().st_size == size)

    def write(self, shard: int, items: Iterable[bytes]) -> bool:
        """Writes a shard unless it is there.

        Args:
            shard: its number.
            items: its items in order; not asked for where it is there.

        Returns:
            Whether it was written.

        Raises:
            InputError: if another process is at work on it, or the disk is full.
        """
        if self.has(shard):
            return False
        with _locked(self.folder / f".shard-{shard:05d}.lock") as is_ours:
            if not is_ours:
                raise InputError(
                    f"another avsync prepare is writing shard {shard} of {self.folder}; wait for it or stop it "
                    "(processes of one run share the work where RANK and WORLD_SIZE, or SLURM's, tell them apart)"
                )
            if self.has(shard):
                return False
            content = list(items)
            if sum(map(len, content)) > _MOST_BYTES:
                raise InputError(
                    f"{len(content)} clips take {sum(map(len, content)) / 2**30:.1f} GiB, more than a file of them may "
                    f"hold ({_MOST_BYTES / 2**30:.1f}); prepare them in a new folder with a smaller --clips_per_shard"
                )
            scratch = self.folder / f".shard-{shard:05d}"
            shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
            try:
                with _no_half_disk(self.folder):
                    scratch.mkdir()
                    self._write_in(scratch, shard, content)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return True

    def finish(self) -> bool:
        """Writes the index if all shards are there, and says whether they are."""
        if not all(self.has(shard) for shard in range(self.plan.num_shards)):
            return False
        records = [json.loads(self._record(shard).read_text()) for shard in range(self.plan.num_shards)]
        ours = as_json(asdict(self.plan)) | {"sha256": [record["sha256"] for record in records]}
        index = {"chunks": [record["chunk"] for record in records], "config": records[0]["config"], OURS: ours}
        # litdata keeps what it has fetched under this: another cache at the same address is another one
        index["updated_at"] = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()[:16]
        for scratch in self.folder.glob(".shard-*/"):  # of a run that was killed between a record and its tidying
            shutil.rmtree(scratch, ignore_errors=True)
        with _no_half_disk(self.folder), _locked(self.folder / ".plan.lock", wait=True):
            if not self.is_whole:
                with whole_file(self.folder / INDEX) as stream:
                    stream.write(_json_bytes(index))
        return True

    def _settle_plan(self) -> None:
        file, wanted = self.folder / PLAN, as_json(asdict(self.plan))
        if not file.is_file():
            with whole_file(file) as stream:
                stream.write(_json_bytes(wanted))
            return
        try:
            found = json.loads(file.read_bytes())
            held = {key: found[key] for key in _OF_PLAN}
        except (ValueError, LookupError, TypeError):
            raise InputError(
                f"{file} is damaged, so that what the cache holds is unknown; give a new folder to --out"
            ) from None
        for key, what in _OF_PLAN.items():
            refuse_difference(str(self.folder), held[key], wanted[key], what)
        refuse_difference(str(self.folder), found, wanted, "setting")

    def _write_in(self, scratch: Path, shard: int, items: Sequence[bytes]) -> None:
        wanted = len(self.plan.items_of(shard))
        cache = litdata().streaming.Cache(str(scratch), chunk_size=wanted)
        for number, item in enumerate(items):
            cache[number] = item
        cache.done()
        (chunk_file,) = scratch.glob("*.bin")
        (index_file,) = scratch.glob("*.json")
        index = json.loads(index_file.read_text())
        (chunk,) = index["chunks"]
        if chunk["chunk_size"] != wanted:
            raise AssertionError(f"shard {shard} holds {chunk['chunk_size']} items in place of {wanted}")
        with chunk_file.open("rb+") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            sync_stream(stream)
        chunk_file.replace(self.folder / _file_of(shard))
        sync_folder(self.folder)
        # the record last: a chunk without one is written again
        record = {"chunk": chunk | {"filename": _file_of(shard)}, "config": index["config"], "sha256": digest}
        # the chunks' common settings: the last shard is shorter
        record["config"]["chunk_size"] = self.plan.clips_per_shard
        with whole_file(self._record(shard)) as stream:
            stream.write(_json_bytes(record))

    def _record(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.json"


def _file_of(shard: int) -> str:
    return f"shard-{shard:05d}.bin"


def _json_bytes(content: object) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


@contextmanager
def _locked(file: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the lock; the system gives it back however a process ends."""
    with file.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def _no_half_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); make room or give the permission, and run avsync prepare "
            "again: finished shards stay"
        ) from error
