"""Finding pretrained folders, reading their configs and loading their weights, with errors a person can act on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import nn

from components.errors import InputError
from components.weights.digests import Sha256, check_digests
from components.weights.file import open_weights, open_weights_file
from components.weights.fit import Renames, Shapes, assign_weights, copy_weights
from components.weights.hub import fetched, hub_name, is_hub_address, is_offline, repository_of
from components.weights.identity import record_identity, sha256_of, sha256_of_tensors
from components.weights.places import PACKAGE_ROOT, located, places
from components.weights.public_checkpoints import CONFIGS

__all__ = [
    "CONFIG_FILE",
    "PACKAGE_ROOT",
    "WEIGHTS_FILE",
    "Sha256",
    "builds_shapes_only",
    "check_found",
    "check_release",
    "dtype_named",
    "find_file",
    "find_folder",
    "full_name",
    "load_module",
    "load_safetensors",
    "load_small",
    "located",
    "pretrained_config",
    "read_config",
    "repository_of",
    "resolve_folder",
    "sha256_of",
    "sha256_of_tensors",
    "write_small",
]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
"""Of a small module of ours (`write_small`)."""

_MAX_NAMED = 8

M = TypeVar("M", bound=nn.Module)


def resolve_folder(name: str | Path, subfolder: str | None = None, files: str = "*", sha256: Sha256 = None) -> Path:
    """The folder meant by ``name``: as given, else where avsync is installed, else from the Hugging Face hub.

    Shipped weights such as ``configs/weights/quickstart_v2a`` are thus found from any working directory, from a
    checkout as well as from an installed wheel. From the hub only the files of the folder itself are fetched, into the
    hub's own cache; without a connection what that cache holds is used.

    Args:
        name: absolute path, path relative to the working directory, path inside the package, or a hub repository:
            ``hf://owner/name`` or ``hf://owner/name@revision``, and ``owner/name`` where that is no path (see
            `components.weights.hub`); ``~`` is expanded.
        subfolder: folder within it, such as ``causal_video_vae``.
        files: pattern of the files that are needed, where they have to be fetched.
        sha256: digests of files in the folder, compared where weights are wanted (see `check_digests`).

    Raises:
        InputError: if there is no such folder, naming what was looked for, or a file has another digest.
    """
    folder = find_folder(name, subfolder) or _from_hub(name, subfolder, files)
    if not builds_shapes_only():
        check_digests(folder, sha256)
    return folder


def find_folder(name: str | Path, subfolder: str | None = None) -> Path | None:
    """As `resolve_folder`, but on this disk alone and None where there is no such folder; the hub is not asked."""
    if is_hub_address(name):
        return None
    for place in places(Path(name).expanduser()):
        if (place / (subfolder or "")).is_dir():
            return place / (subfolder or "")
    return None


def find_file(name: str | Path, sha256: Sha256 = None) -> Path | None:
    """The file meant by ``name``, as given or where avsync is installed; None where ``name`` is no file on this disk.

    Raises:
        InputError: if it has another digest than ``sha256``.
    """
    if is_hub_address(name) or not (file := located(name)).is_file():
        return None
    if not builds_shapes_only():
        check_digests(file, sha256)
    return file


def check_found(name: str | Path, subfolder: str | None = None) -> None:
    """Finds out, without a download, whether the weights called ``name`` are certain to be missing.

    Raises:
        InputError: if they are on this disk under no name, and are no hub repository that might be fetched.
    """
    if find_file(name) is None and find_folder(name, subfolder) is None and (hub_name(name) is None or is_offline()):
        _from_hub(name, subfolder, CONFIG_FILE)


def check_release(name: str | Path, subfolders: Sequence[str], sha256: Sha256) -> None:
    """Compares files of a release with several folders, by their names within the release (see `check_digests`).

    Raises:
        InputError: if a folder is missing, or a file has another digest.
    """
    if sha256 is None or builds_shapes_only():
        return
    folders = [resolve_folder(name, subfolder) for subfolder in subfolders]
    check_digests(folders[0].parents[len(Path(subfolders[0]).parts) - 1], sha256)


def _from_hub(name: str | Path, subfolder: str | None, files: str) -> Path:
    """The folder that is not on this disk.

    Raises:
        InputError: if the hub does not give it either, naming what was looked for.
    """
    hub = hub_name(name)
    given = Path(name).expanduser()
    looked: list[str] = []
    if not is_hub_address(name):
        if given.is_file():
            raise InputError(
                f"'{name}' is a file, but a folder with {CONFIG_FILE} and the weights is needed here; give its folder"
            )
        for place in places(given):
            if place.is_dir():
                raise InputError(f"'{place}' has no subfolder '{subfolder}'{_choice(place)}; correct the subfolder")
        looked = [f"for '{place / (subfolder or '')}'" for place in places(given)]
    if hub is not None:
        folder, reason = fetched(hub, subfolder, files)
        if folder is not None:
            return folder
        looked.append(f"on the Hugging Face hub ({reason})")
    fix = (
        "give one that can be reached or was downloaded before, or a folder on this disk"
        if is_hub_address(name)
        else "give an existing folder, one relative to the installed package such as "
        f"'configs/weights/{given.name or 'NAME'}', or a hub repository as 'hf://owner/name'"
    )
    raise InputError(
        f"pretrained folder '{full_name(name, subfolder)}' was not found (looked {' and '.join(looked)}); {fix}"
    )


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


def pretrained_config(
    name: str | Path, subfolder: str | None = None, sha256: Sha256 = None
) -> tuple[Path, dict[str, Any]]:
    """The folder meant by ``name`` and the settings in its ``config.json``.

    Where only shapes are built (see `builds_shapes_only`) a public checkpoint that is not on this disk is known by its
    name, and of others nothing but the config is fetched.

    Raises:
        InputError: as `resolve_folder` and `read_config`.
    """
    if find_folder(name, subfolder) is None:
        repository = repository_of(name)
        public = {within: config for (release, within), config in CONFIGS.items() if release == repository}
        if public and not subfolder:
            raise InputError(f"'{name}' is a whole release; set subfolder to one of {', '.join(public)}")
        if subfolder in public and builds_shapes_only():
            return Path(full_name(name, subfolder)), dict(public[subfolder])
    folder = resolve_folder(name, subfolder, CONFIG_FILE if builds_shapes_only() else "*", sha256)
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


def load_small(build: Callable[..., M], name: str | Path, sha256: Sha256 = None, apart: str | None = None) -> M:
    """A small module of ours as `write_small` left it, in evaluation mode.

    Args:
        build: its class, called with what ``config.json`` holds.
        name: the folder, as `resolve_folder` understands it.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).
        apart: as in `write_small`; it does not count as the module's identity.

    Raises:
        InputError: if the folder or a file is missing, damaged or does not fit.
    """
    folder, config = pretrained_config(name, sha256=sha256)
    try:
        module = build(**config)
    except TypeError as error:
        called = getattr(build, "__name__", str(build))
        raise InputError(f"{folder / CONFIG_FILE} is not the config of {called} ({error}); write it anew") from None
    part: nn.Module | None = None if apart is None else getattr(module, apart)
    if part is not None:
        delattr(module, str(apart))
    load_safetensors(module, folder / WEIGHTS_FILE, str(name))
    if part is not None:
        load_safetensors(part, folder / f"{apart}.safetensors", str(name))
        module.add_module(str(apart), part)
    return module.eval()


def write_small(module: nn.Module, config: Mapping[str, Any], folder: Path, apart: str | None = None) -> None:
    """Writes ``config.json`` and ``model.safetensors`` into an existing folder.

    Args:
        module: whose weights are written.
        config: what builds it.
        folder: where to.
        apart: a part with a file of its own, ``APART.safetensors``, where the module has it: one that can be replaced
            while nothing that stands on the module's identity has to be made anew.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    own = {name.removeprefix(f"{apart}."): weights.pop(name) for name in list(weights) if name.startswith(f"{apart}.")}
    if own:
        (folder / f"{apart}.safetensors").write_bytes(save(own))
    (folder / WEIGHTS_FILE).write_bytes(save(weights))
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


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


def _choice(folder: Path) -> str:
    """``" (folders with config.json: a, b)"``, for who gave a whole release, or nothing."""
    names = sorted(file.parent.name for file in folder.glob(f"*/{CONFIG_FILE}"))
    return f" (subfolders that have one: {', '.join(names[:_MAX_NAMED])})" if names else ""
