"""Audio models of the transformers library, loaded completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from components.errors import InputError
from components.weights.file import open_weights
from components.weights.identity import record_identity
from components.weights.pretrained import Sha256, builds_shapes_only, dtype_named, repository_of, resolve_folder


def load_audio_model(
    class_name: str,
    name: str,
    dtype: str,
    public: Mapping[str, Mapping[str, Any]],
    inside: str | None = None,
    sha256: Sha256 = None,
    **settings: Any,
) -> Any:
    """The frozen model ``class_name`` from ``transformers`` with the weights of the folder or repository ``name``.

    On the meta device only shapes are built.

    Args:
        class_name: a class that `transformers` exports, or ``module:Class`` below ``transformers.models``.
        name: folder or hub repository (see `resolve_folder`).
        dtype: precision of the weights.
        public: public repositories, with the config entries that differ from the class's defaults: their shapes are
            known without files.
        inside: regular expression of the prefix under which a larger model's file keeps this one.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).
        settings: config entries that are set whatever the folder says.

    Raises:
        InputError: if a file is absent or damaged, or weights are missing.
    """
    model_class, precision = _class_named(class_name), dtype_named(dtype)
    if builds_shapes_only():
        repository = repository_of(name)
        if repository is not None and repository in public:
            config = model_class.config_class(**{**public[repository], **settings})
        else:
            config = model_class.config_class.from_pretrained(resolve_folder(name, files="*.json"), **settings)
        return model_class(config).requires_grad_(False).eval().to(precision)
    folder = resolve_folder(name, sha256=sha256)
    # our own reader first: it names the files, and says which one is damaged
    files = open_weights(folder).files
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                folder,
                dtype=precision,
                key_mapping=None if inside is None else {inside: ""},
                local_files_only=True,
                output_loading_info=True,
                **settings,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"'{folder}' does not load as {class_name} ({reason}); download it anew") from None
    # transformers leaves them random and only warns
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(
            f"the weights in '{folder}' lack {len(missing)} tensors of {class_name}, first {missing[0]}; "
            "give the folder of a model of that kind"
        )
    record_identity(model, name, files)
    return model.requires_grad_(False).eval()


def load_feature_extractor(class_name: str, name: str) -> Any:
    """The stored settings of a model's own front end; its defaults where only shapes are built.

    Raises:
        InputError: if the folder does not hold them.
    """
    extractor_class = _class_named(class_name)
    if builds_shapes_only():
        return extractor_class()
    folder = resolve_folder(name)
    try:
        return extractor_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"'{folder}' holds no usable preprocessor_config.json, which says how the model is fed ({reason}); "
            "download the whole folder"
        ) from None


def mel_filters(extractor_filters: Any) -> torch.Tensor:
    """A feature extractor's filter bank as float32 ``[frequencies, mels]`` on the CPU."""
    return torch.from_numpy(extractor_filters).float()


def _class_named(name: str) -> Any:
    import importlib

    import transformers

    module, _, attribute = name.rpartition(":")
    return getattr(importlib.import_module(f"transformers.models.{module}") if module else transformers, attribute)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a bar, and without the table of weights that belong to other parts of a larger model."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
