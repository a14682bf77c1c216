"""Repositories of the Hugging Face hub: which names mean one, and fetching what is in them.

``hf://owner/name`` is always one, ``hf://owner/name@revision`` a branch, tag or commit of it. ``owner/name`` alone is
one where it cannot be a path on this disk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError
from components.weights.places import places

SCHEME = "hf://"

LOCAL_NAMES = frozenset(
    {
        *("cache", "checkpoint", "checkpoints", "ckpt", "ckpts", "config", "configs", "data", "dataset", "datasets"),
        *("docs", "experiments", "export", "exported", "exports", "lightning_logs", "logs", "model", "models"),
        *("output", "outputs", "predictions", "pretrained", "results", "runs", "tests", "tmp", "weights"),
    }
)
"""What people call folders of their own: a path that begins with one of these is never taken for a hub repository."""

_PART = r"[A-Za-z0-9][\w.-]*"
_PLAIN = re.compile(f"{_PART}/{_PART}")
_WRITTEN = re.compile(rf"{SCHEME}({_PART}/{_PART})(?:@(\w[\w./-]*))?")
_OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf", "*.tflite")


@dataclass(frozen=True)
class HubName:
    """A repository.

    Attributes:
        repository: ``owner/name``.
        revision: branch, tag or commit; None for the main branch.
    """

    repository: str
    revision: str | None = None


def is_hub_address(name: str | Path) -> bool:
    """Whether ``name`` is written as ``hf://...``, which is never looked for on this disk."""
    return str(name).lower().startswith("hf:")


def hub_name(name: str | Path) -> HubName | None:
    """The repository that ``name`` means, or None where it is a path on this disk.

    Raises:
        InputError: if it begins like a hub address and is none.
    """
    if is_hub_address(name):
        # a path has lost one of its slashes
        text = str(name) if isinstance(name, str) else str(name).replace("hf:/", SCHEME, 1)
        written = _WRITTEN.fullmatch(text)
        if written is None:
            raise InputError(
                f"'{name}' is no name of a hub repository; write hf://owner/name, or hf://owner/name@revision for a "
                "branch, tag or commit, and give a folder within it as its subfolder"
            )
        return HubName(written[1], written[2])
    if not isinstance(name, str) or not _PLAIN.fullmatch(name):
        return None
    owner = name.partition("/")[0]
    # below a folder that exists here, or has a name as people give it to their own, a path was meant
    if owner.lower() in LOCAL_NAMES or any(place.is_dir() for place in places(Path(owner))):
        return None
    return HubName(name)


def repository_of(name: str | Path) -> str | None:
    """``owner/name`` of the repository that ``name`` means, whatever its revision; None for a path on this disk."""
    hub = hub_name(name)
    return None if hub is None else hub.repository


def is_offline() -> bool:
    """Whether the hub must not be asked (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def fetched(hub: HubName, subfolder: str | None, files: str) -> tuple[Path | None, str]:
    """The folder in the hub's cache, downloaded where it is not there yet; None and the reason where that fails.

    Args:
        hub: the repository.
        subfolder: folder within it.
        files: pattern of the files that are needed; those of folders further down are never fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # a pattern's * goes through slashes, so the files of other folders are kept out by a second pattern
    within = f"{subfolder}/" if subfolder else ""
    others = [f"{within}*/*", *_OTHER_FRAMEWORKS]
    try:
        snapshot = snapshot_download(
            hub.repository, revision=hub.revision, allow_patterns=[f"{within}{files}"], ignore_patterns=others
        )
    except GatedRepoError:
        return None, "access must be asked for on its page, then log in with 'hf auth login'"
    except RepositoryNotFoundError:
        return None, "no such repository, or a private one: log in with 'hf auth login'"
    except RevisionNotFoundError:
        return None, f"the repository has no revision '{hub.revision}'"
    except LocalEntryNotFoundError as error:
        part = "holds only a part of it" if hasattr(error, "snapshot_path") else "does not have it"
        return None, f"which cannot be reached or is offline, and its cache {part}"
    except (HfHubHTTPError, OSError, ValueError) as error:
        return None, str(error).partition("\n")[0]
    folder = Path(snapshot) / (subfolder or "")
    return (folder, "") if folder.is_dir() else (None, f"the repository has no files in '{subfolder}'")
