"""The frozen parts of a model as its configuration describes them: what they are, and how they are built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import nn

from components.contracts import (
    MODALITIES,
    AudioCodec,
    AudioEncoder,
    Modality,
    TextEncoder,
    TranscriptEncoder,
    VideoCodec,
)
from components.errors import InputError
from components.weights.named_files import consequential, named_weights
from datamodules.prepared.identity import as_json, refuse_difference
from lightning_modules.command_line.class_paths import found_at

ROLES: dict[str, type[nn.Module]] = {
    "video_codec": VideoCodec,
    "audio_codec": AudioCodec,
    "audio_encoder": AudioEncoder,
    "text_encoder": TextEncoder,
    "transcript_encoder": TranscriptEncoder,
}
"""What a frozen part does, and the contract it fulfils."""
_ENCODES: dict[str, Modality] = {
    "video_codec": "video",
    "audio_codec": "audio",
    "audio_encoder": "audio",
    "transcript_encoder": "audio",
}
"""What a part encodes; texts describe both."""


def frozen_sections(model: Namespace) -> dict[str, Namespace]:
    """Sections of the frozen parts by the arguments of the model; those that are null are left out.

    Raises:
        InputError: if the model is none that trains on encoded clips.
    """
    arguments = roles_of(model)
    given = model.get("init_args")
    return {name: given[name] for name in arguments if given and given.get(name) is not None}


def encoded_sections(model: Namespace) -> dict[str, Namespace]:
    """Sections of the frozen parts whose work a training uses: Harmony's stage ``video`` learns no sound.

    Raises:
        InputError: if the model is none that trains on encoded clips.
    """
    roles, needed = roles_of(model), needed_modalities(model.as_dict())
    return {
        name: section
        for name, section in frozen_sections(model).items()
        if roles[name] not in _ENCODES or _ENCODES[roles[name]] in needed
    }


def needed_modalities(model: Mapping[str, Any]) -> tuple[Modality, ...]:
    """What the model's class says that it learns from by its settings; both modalities where it says nothing."""
    says = getattr(found_at(model["class_path"]), "needed_modalities", None)
    return MODALITIES if says is None else tuple(says(model.get("init_args") or {}))


def roles_of(model: Namespace) -> Mapping[str, str]:
    """Argument of the model -> the role of what it takes.

    Raises:
        InputError: if the model is none that trains on encoded clips.
    """
    arguments: Mapping[str, str] = getattr(found_at(model.class_path), "frozen_arguments", {})
    if not arguments:
        raise InputError(
            f"{model.class_path} does not train on encoded clips; leave data.latents out, or name a Syncphony or "
            "Harmony experiment"
        )
    return arguments


def facts_of_part(section: Any) -> dict[str, Any]:
    """What the values of a part depend on: its class, the arguments that matter, the weights."""
    values = section.as_dict() if isinstance(section, Namespace) else section
    return as_json(_facts(values))


def refuse_other_parts(cache: str, there: Mapping[str, Any], sections: Mapping[str, Namespace]) -> None:
    """Compares the parts a cache was made by with those of a configuration.

    Raises:
        InputError: naming the part, what differs, and both values.
    """
    here = {name: facts_of_part(section) for name, section in sections.items()}
    was, now = _comparable(there, here), _comparable(here, there)
    for name in here:
        if name not in was:
            raise InputError(f"{cache} was prepared without {name}, which the experiment has; prepare it anew")
        refuse_difference(cache, was[name], now[name], name)


def built(section: Namespace, role: str) -> nn.Module:
    """The part that a section describes, frozen and in evaluation mode."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=ROLES[role])
    given = Namespace(part=section.clone())  # type: ignore[no-untyped-call]
    part: nn.Module = parser.instantiate_classes(given).part
    return part.requires_grad_(False).eval()


def _facts(section: Mapping[str, Any]) -> dict[str, Any]:
    given = section.get("init_args") or {}
    target = found_at(section["class_path"])
    arguments = {
        name: _facts(value) if isinstance(value, Mapping) and "class_path" in value else value
        for name, value in consequential(target, given).items()
    }
    return {"class": section["class_path"], "arguments": arguments, "weights": named_weights(target, given)}


def _comparable(facts: Any, other: Any) -> Any:
    """Facts without names of weights whose bytes are known on both sides, and without bytes known on one."""
    if not (isinstance(facts, Mapping) and isinstance(other, Mapping)):
        return facts
    if set(facts) <= {"name", "sha256"} and "name" in facts:
        both = "sha256" in facts and "sha256" in other
        return {"sha256": facts["sha256"]} if both else {"name": facts["name"]}
    return {name: _comparable(value, other.get(name)) for name, value in facts.items()}
