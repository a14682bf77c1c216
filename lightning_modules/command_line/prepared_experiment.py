"""A training on clips that were encoded before: compared with them, and built without what encoded them.

A mixture has a cache for each set that is encoded. For one of its sets that is not, the parts are loaded with its first
batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
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
    """What is known of the caches that an experiment trains on.

    Attributes:
        addresses: where they are.
        identities: of the weights of codecs and encoders, by the arguments of the model.
    """

    addresses: Sequence[str]
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
        places = ", ".join(self.addresses)
        rank_zero_info(f"clips come encoded from {places}: {names} are not loaded unless something is evaluated")


def prepared_experiment(model: Namespace | None, data: Any) -> PreparedExperiment | None:
    """What the section of the data says of encoded clips, after comparing them with the section of the model.

    Raises:
        InputError: if a cache is not whole, was made by other parts, or by other weights than another one.
    """
    addresses = cache_addresses(data)
    if not addresses or model is None:
        return None
    sections = encoded_sections(model)
    found: dict[str, Mapping[str, str]] = {}
    for address in addresses:
        index = Items(address).index
        refuse_other_parts(address, index["parts"], sections)
        for name in sections:
            if name not in index["identities"]:
                raise InputError(f"{address} was prepared without {name}, which the experiment has; prepare it anew")
            identity = index["identities"][name]
            if found.setdefault(name, identity)["sha256"] != identity["sha256"]:
                raise InputError(
                    f"{address} was prepared with another {name} than {addresses[0]} (sha256"
                    f" {identity['sha256'][:12]} and {found[name]['sha256'][:12]}); prepare one of them anew"
                )
    return PreparedExperiment(addresses, found)


def cache_addresses(data: Any) -> list[str]:
    """Where the clips of a data section lie encoded, those of a mixture's sets too."""
    given = data.get("init_args") if isinstance(data, Namespace) else None
    if not given:
        return []
    own = [] if given.get("latents") is None else [str(given["latents"])]
    sets = given.get("sets")
    return own + [at for one in (sets.values() if isinstance(sets, Mapping) else ()) for at in cache_addresses(one)]
