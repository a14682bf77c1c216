"""A training on clips that were encoded before: compared with them, and built without what encoded them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from components.errors import InputError
from components.weights.identity import Identity
from components.weights.unloaded import unloaded
from datamodules.prepared.streaming import Items
from lightning_modules.command_line.frozen_parts import built, encoded_sections, refuse_other_parts, roles_of


@dataclass(frozen=True)
class PreparedExperiment:
    """What is known of the cache that an experiment trains on.

    Attributes:
        address: where it is.
        identities: of the weights of codecs and encoders, by the arguments of the model.
    """

    address: str
    identities: Mapping[str, Mapping[str, str]]

    def leave_unloaded(self, model: Namespace) -> None:
        """Puts codecs and encoders that are not loaded into the section of the model, in place of their own.

        What the training does not use at all is built as ever.
        """
        roles = roles_of(model)
        for name, section in encoded_sections(model).items():
            part = unloaded(partial(built, section, roles[name]), name, Identity(**self.identities[name]))
            model["init_args"][name] = part
            # the parser takes what is built already, and says that it could not write it into a file
            warnings.filterwarnings("ignore", message=rf"\s*Unable to serialize instance {type(part).__name__}\(")
        names = ", ".join(self.identities)
        rank_zero_info(f"clips come encoded from {self.address}: {names} are not loaded unless something is evaluated")


def prepared_experiment(model: Namespace | None, data: Any) -> PreparedExperiment | None:
    """What the section of the data says of encoded clips, after comparing them with the section of the model.

    Raises:
        InputError: if there is no whole cache, or it was made by other parts.
    """
    given = data.get("init_args") if isinstance(data, Namespace) else None
    address = given.get("latents") if given else None
    if address is None or model is None:
        return None
    sections = encoded_sections(model)
    index = Items(str(address)).index
    refuse_other_parts(str(address), index["parts"], sections)
    if missing := [name for name in sections if name not in index["identities"]]:
        raise InputError(f"{address} was prepared without {missing[0]}, which the experiment has; prepare it anew")
    return PreparedExperiment(str(address), {name: index["identities"][name] for name in sections})
