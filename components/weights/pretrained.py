"""Finding pretrained folders, reading their configs and loading their weights, with errors a person can act on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from components.errors import InputError
from components.weights.file import open_weights, open_weights_file
from components.weights.fit import Renames, Shapes, assign_weights, copy_weights
from components.weights.identity import record_identity, sha256_of, sha256_of_tensors
from components.weights.public_checkpoints import CONFIGS

__all__ = [
    "CONFIG_FILE",
    "PACKAGE_ROOT",
    "builds_shapes_only",
    "dtype_named",
    "find_folder",
    "full_name",
    "load_module",
    "load_safetensors",
    "located",
    "pretrained_config",
    "read_config",
    "resolve_folder",
    "sha256_of",
    "sha256_of_tensors",
]

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""Where the packages (and with them ``configs/weights``) are installed."""

CONFIG_FILE = "config.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OTHER_FRAMEWORKS = ("*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf", "*.tflite")
_MAX_NAMED = 8

M = TypeVar("M", bound=nn.Module)


def resolve_folder(name: str | Path, subfolder: str | None = None, files: str = "*") -> Path:
    """The folder meant by ``name``: as given, else where avsync is installed, else from the Hugging Face hub.

    Shipped weights such as ``configs/weights/quickstart_v2a`` are thus found from any working directory, from a
    checkout as well as from an installed wheel. From the hub only the files of the folder itself are fetched, into the
    hub's own cache; without a connection what that cache holds is used.

    Args:
        name: absolute path, path relative to the working directory, path inside the package, or ``owner/name`` of a
            hub repository; ``~`` is expanded.
        subfolder: folder within it, such as ``causal_video_vae``.
        files: pattern of the files that are needed, where they have to be fetched.

    Raises:
        InputError: if there is no such folder, naming what was looked for.
    """
    found = find_folder(name, subfolder)
    if found is not None:
        return found
    given = Path(name).expanduser()
    if given.is_file():
        raise InputError(
            f"'{name}' is a file, but a folder with {CONFIG_FILE} and the weights is needed here; give its folder"
        )
    for place in _places(given):
        if place.is_dir():
            raise InputError(f"'{place}' has no subfolder '{subfolder}'{_choice(place)}; correct the subfolder")
    wanted = full_name(name, subfolder)
    looked = [f"'{place / (subfolder or '')}'" for place in _places(given)]
    if _is_hub_id(name):
        folder, reason = _from_hub(str(name), subfolder, files)
        if folder is not None:
            return folder
        looked.append(f"on the Hugging Face hub ({reason})")
    raise InputError(
        f"pretrained folder '{wanted}' was not found (looked for {' and '.join(looked)}); give an existing folder, one "
        f"relative to the installed package such as 'configs/weights/{given.name or 'NAME'}', or a hub repository "
        "'owner/name' that can be reached or was downloaded before"
    )


def find_folder(name: str | Path, subfolder: str | None = None) -> Path | None:
    """As `resolve_folder`, but on this disk alone and None where there is no such folder; the hub is not asked."""
    for place in _places(Path(name).expanduser()):
        if (place / (subfolder or "")).is_dir():
            return place / (subfolder or "")
    return None


def full_name(name: str | Path, subfolder: str | None) -> str:
    """``name/subfolder``, as errors and identities call it."""
    return f"{name}/{subfolder}" if subfolder else str(name)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings in ``config.json`` of ``folder``.

    Raises:
        InputError: if it is absent (naming subfolders that have one), or is no JSON object.
    """
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{file} does not exist; give a folder with {CONFIG_FILE} beside the weights{_choice(folder)}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {file} ({error.strerror}); a pretrained folder needs it") from None
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}); restore it from the model's release") from None
    if not isinstance(config, dict):
        raise InputError(
            f"{file} holds a {type(config).__name__}, not an object with the model's settings; restore it from the "
            "model's release"
        )
    return config


def pretrained_config(name: str | Path, subfolder: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder meant by ``name`` and the settings in its ``config.json``.

    Where only shapes are built (see `builds_shapes_only`) a public checkpoint that is not on this disk is known by its
    name, and of others nothing but the config is fetched.

    Raises:
        InputError: as `resolve_folder` and `read_config`.
    """
    if find_folder(name, subfolder) is None:
        public = {within: config for (release, within), config in CONFIGS.items() if release == str(name)}
        if public and not subfolder:
            raise InputError(f"'{name}' is a whole release; set subfolder to one of {', '.join(public)}")
        if subfolder in public and builds_shapes_only():
            return Path(full_name(name, subfolder)), dict(public[subfolder])
    folder = resolve_folder(name, subfolder, CONFIG_FILE if builds_shapes_only() else "*")
    return folder, read_config(folder)


def builds_shapes_only() -> bool:
    """Whether ``with torch.device("meta")`` is in force: shapes are wanted, and no weights are read."""
    return torch.get_default_device().type == "meta"


def dtype_named(name: str | torch.dtype | None) -> torch.dtype | None:
    """The floating-point type of a YAML file's ``float32``, ``bfloat16`` or ``float16``; None stays None.

    Raises:
        InputError: if there is no such type.
    """
    if name is None or isinstance(name, torch.dtype):
        return name
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in names:
        raise InputError(f"dtype is '{name}'; give one of {', '.join(names)}, or null to keep the file's")
    return names[name]


def load_module(
    build: Callable[[], M],
    folder: Path,
    name: str,
    dtype: torch.dtype | None = None,
    renames: Renames = (),
    contradictions: Callable[[M, Shapes], list[str]] | None = None,
) -> M:
    """Builds a module without memory, gives it the weights of ``folder`` as they are mapped, and records its identity.

    Under ``with torch.device("meta")`` the weights are not read and the module has shapes only.

    Args:
        build: makes the module; called with ``meta`` as the default device.
        folder: has the weights.
        name: what the user asked for.
        dtype: what floating-point tensors become; None keeps the file's.
        renames: other spellings of the keys.
        contradictions: says from module and shapes in the file which settings of the config are wrong; asked if the
            keys do not fit.

    Raises:
        InputError: if the weights are missing, damaged or do not fit.
    """
    with torch.device("meta"):
        module = build()
    if builds_shapes_only():
        return module if dtype is None else module.to(dtype)
    weights = open_weights(folder)
    assign_weights(module, weights, dtype, renames, contradictions)
    record_identity(module, name, weights.files)
    return module


def load_safetensors(module: nn.Module, file: str | Path, name: str | None = None) -> None:
    """Copies every parameter and persistent buffer of ``module`` from ``file``; nothing is loaded if anything differs.

    For small modules that exist already; tensors are converted to the dtype they have there. Where only shapes are
    built (see `builds_shapes_only`) nothing is read.

    Args:
        module: takes the values.
        file: the weights.
        name: what the user asked for, recorded with the file's digest as the module's identity; None for the file.

    Raises:
        InputError: one error that lists missing, unexpected and wrongly shaped keys (ten of each at most, with the
            nearest name on the other side), or says that the file is absent or damaged.
    """
    if builds_shapes_only():
        return
    weights = open_weights_file(file)
    copy_weights(module, weights)
    record_identity(module, name or str(file), weights.files)


def located(name: str | Path) -> Path:
    """``name``, or what the package ships under that name where nothing lies there: ``configs/weights/...``."""
    given = Path(name).expanduser()
    packaged = PACKAGE_ROOT / given
    return packaged if not given.exists() and packaged.exists() else given


def _places(given: Path) -> list[Path]:
    """Where on this disk ``given`` may be: the first that exists is meant."""
    packaged = PACKAGE_ROOT / given
    # an absolute path joined to another stays itself
    return [given.absolute()] if packaged == given else [given.absolute(), packaged]


def _choice(folder: Path) -> str:
    """``" (folders with config.json: a, b)"``, for who gave a whole release, or nothing."""
    names = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG_FILE}"))
    return f" (subfolders that have one: {', '.join(names[:_MAX_NAMED])})" if names else ""


def _is_hub_id(name: str | Path) -> bool:
    """Whether ``name`` can be ``owner/name``; below a folder that exists here, a local path was meant."""
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
        return False
    owner = name.partition("/")[0]
    return not any(place.is_dir() for place in _places(Path(owner)))


def _from_hub(repository: str, subfolder: str | None, files: str) -> tuple[Path | None, str]:
    """The folder in the hub's cache, downloaded where it is not there yet; None and the reason where that fails."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    # a pattern's * goes through slashes, so the files of other folders are kept out by a second pattern
    within = f"{subfolder}/" if subfolder else ""
    others = [f"{within}*/*", *_OTHER_FRAMEWORKS]
    try:
        snapshot = snapshot_download(repository, allow_patterns=[f"{within}{files}"], ignore_patterns=others)
    except GatedRepoError:
        return None, "access must be asked for on its page, then log in with 'hf auth login'"
    except RepositoryNotFoundError:
        return None, "no such repository, or a private one: log in with 'hf auth login'"
    except LocalEntryNotFoundError as error:
        part = "holds only a part of it" if hasattr(error, "snapshot_path") else "does not have it"
        return None, f"which cannot be reached or is offline, and its cache {part}"
    except (HfHubHTTPError, OSError, ValueError) as error:
        return None, str(error).partition("\n")[0]
    folder = Path(snapshot) / (subfolder or "")
    return (folder, "") if folder.is_dir() else (None, f"the repository has no files in '{subfolder}'")
