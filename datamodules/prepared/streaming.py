"""Reading items by their number, from a folder or an object store, with litdata.

litdata streams chunks and knows object stores; which item comes when is decided by our own samplers, whose order is
exact on any number of ranks and workers. Its own order and resumption are not used.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from components.errors import InputError

INDEX = "index.json"
"""litdata's list of chunks; ours is beside it under the key `OURS`. It is written last: where it is, all is whole."""
OURS = "avsync"
PLAN = "plan.json"
INSTALL = "litdata is not installed, which keeps and reads encoded clips: pip install 'avsync[stream]'"


class Items:
    """Items of a cache as bytes, by their number; every process opens files of its own.

    Args:
        address: a folder, or what litdata can stream from (``s3://bucket/folder``, ``gs://...``).

    Raises:
        InputError: if there is no whole cache.
    """

    def __init__(self, address: str) -> None:
        litdata()  # now, not in a worker
        self.address = address
        self.is_local = "://" not in address and not address.startswith("local:")
        self._stream: Any = None
        self._pid = -1
        if self.is_local:
            _refuse_parts(Path(address).expanduser())
        self.index: dict[str, Any] = self._read_index()

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._opened()[number])  # a copy: what litdata gives is a view of a file it may close

    def __getstate__(self) -> dict[str, Any]:
        # handles and threads stay behind
        return vars(self) | {"_stream": None, "_pid": -1}

    def _opened(self) -> Any:
        if self._pid != os.getpid():
            self._stream, self._pid = opened_by_litdata(self.address), os.getpid()
        return self._stream

    def _read_index(self) -> dict[str, Any]:
        if self.is_local:
            file = Path(self.address).expanduser() / INDEX
        else:
            try:
                stream = opened_by_litdata(self.address)
                stream[0]  # fetches the index
                file = Path(stream.input_dir.path) / INDEX
            except InputError:
                raise
            except Exception as error:  # whatever the store's own library raises
                raise InputError(
                    f"latents: '{self.address}' cannot be read ({type(error).__name__}: {error}); correct the address, "
                    "or upload the whole folder that avsync prepare filled"
                ) from error
        found = json.loads(file.read_text())
        if OURS not in found:
            raise InputError(f"latents: '{self.address}' holds data of another kind; give what avsync prepare filled")
        ours: dict[str, Any] = found[OURS]
        return ours


def opened_by_litdata(address: str) -> Any:
    """Litdata's ``StreamingDataset`` over an address, for access by number."""
    return litdata().StreamingDataset(
        str(Path(address).expanduser()) if "://" not in address and not address.startswith("local:") else address
    )


def litdata() -> Any:
    """The library.

    Raises:
        InputError: if it is not installed.
    """
    # it would ask the package index for a newer version at every start, from every worker
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    try:
        import litdata as library
        import litdata.streaming
    except ModuleNotFoundError as error:
        raise InputError(INSTALL) from error
    return library


def _refuse_parts(folder: Path) -> None:
    """A folder must hold every chunk of its index, as long as it was written."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / PLAN).is_file():
            there = len(list(folder.glob("shard-*.json")))
            raise InputError(
                f"latents: {folder} is not whole: avsync prepare was stopped after {there} of its shards; run it again "
                "with the same options, and it goes on from there"
            )
        raise InputError(f"latents: {folder} holds no encoded clips; fill it with avsync prepare --out {folder}")
    for chunk in json.loads(index.read_text())["chunks"]:
        file = folder / chunk["filename"]
        size = file.stat().st_size if file.is_file() else None
        if size != chunk["chunk_bytes"]:
            held = "is missing" if size is None else f"has {size} bytes in place of {chunk['chunk_bytes']}"
            raise InputError(
                f"latents: {file} {held}; copy it anew, or remove {index.name} and run avsync prepare again"
            )
