"""How long and how large recordings are, kept on the disk: to open a million of them takes minutes at every start."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components.errors import InputError
from components.weights.whole_file import whole_file
from datamodules.reading.record_reader import ClipForm, RecordReader
from datamodules.reading.records import ClipRecord

_log = logging.getLogger("avsync.data")

_VERSION = 1
_THREADS = 8


def forms_of(
    records: Sequence[ClipRecord], reader: RecordReader, with_size: bool, folder: Path | None, writes: bool
) -> list[ClipForm | None]:
    """The form of each recording's clips, None for one that cannot be opened; looked up where all are known.

    What is known holds for these files as they are (path, size and time of change) and for what clips look like.

    Args:
        records: the recordings.
        reader: what reads them.
        with_size: see `RecordReader.clip_form`.
        folder: where forms are kept; None for nowhere.
        writes: whether this process is the one that writes there.
    """
    file = None if folder is None else folder / f"{_digest(records, reader, with_size)}.json"
    if file is not None and (known := _read(file, len(records))) is not None:
        return known
    begin_s = time.perf_counter()

    def form_of(record: ClipRecord) -> ClipForm | None:
        try:
            return reader.clip_form(record, with_size)
        except InputError:
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        forms = list(pool.map(form_of, records))
    _log.info("looked at %d recordings in %.1f s", len(records), time.perf_counter() - begin_s)
    # what could not be opened may be there the next time
    if file is not None and writes and None not in forms:
        try:
            with whole_file(file) as stream:
                stream.write(json.dumps([[form.num_frames, form.size] for form in forms if form]).encode())
        except OSError as error:
            _log.warning("%s cannot be written (%s): recordings are looked at again at the next start", file, error)
    return forms


def _read(file: Path, count: int) -> list[ClipForm | None] | None:
    try:
        content = json.loads(file.read_bytes())
        forms = [ClipForm(int(frames), None if size is None else (size[0], size[1])) for frames, size in content]
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return list(forms) if len(forms) == count else None


def _digest(records: Sequence[ClipRecord], reader: RecordReader, with_size: bool) -> str:
    digest = hashlib.sha256(repr((_VERSION, reader, with_size)).encode())
    for record in records:
        for path in (record.path, record.sound):
            digest.update(repr((path, record.span_s, *_state(path))).encode())
    return digest.hexdigest()[:32]


def _state(path: Path | None) -> tuple[int, int]:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        found = None
    return (0, 0) if found is None else (found.st_size, found.st_mtime_ns)
