"""Several data sets in given shares: speech and other sounds one to one, with a picture or without."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.reading.clip_data_module import ClipDataModule
from datamodules.reading.clip_groups import ClipGroups
from datamodules.reading.ordered_data_module import OrderedDataModule, Split

# What is said once, of the mixture, and not of its sets.
_OF_THE_MIXTURE = ("batch_size", "val_batch_size", "num_workers", "samples_in_a_row")


class Mixture(OrderedDataModule):
    """Data sets by name, of which each batch has one; for Harmony's "speech : ambient = 1 : 1".

    ::

        data:
          class_path: datamodules.mixture.Mixture
          init_args:
            sets:
              speech: {class_path: datamodules.speech_clips.SpeechClips, init_args: {root: speech.jsonl}}
              ambient: {class_path: datamodules.folder_clips.FolderClips, init_args: {root: sounds, audio_only: true}}
            weights: {speech: 1, ambient: 1}
            batch_size: 16

    The sets take turns in training: ``samples_in_a_row`` clips of one set, then the next one's, in every 16 turns as
    often as its weight says (exact in the mean, to less than one turn in every 16). All ranks work at one set in a
    step. Each set is gone through pass by pass in an order of its own, whatever the others do, so that a small set
    comes more often and none is repeated before all of it was seen. Which sample comes when depends on the seed and on
    how many samples were consumed; a run resumes exactly, also with another number of ranks.

    Evaluation shows the sets' own lists one after another. Names of clips and recordings begin with the set's name.

    Args:
        sets: data sets by name. Their own settings hold (references, tracks, ``clips_per_video``, ``max_val_clips``,
            ``latents`` ...), but clips, batches and loaders are the mixture's. From Python: what makes them when it is
            called with ``clip``, ``batch_size``, ``val_batch_size``, ``num_workers`` and ``seed``, such as
            ``functools.partial(SpeechClips, "speech.jsonl")``.
        weights: how often each set's clips come, in any unit; None takes all sets alike.
        epoch: how many samples are one pass, where a run counts epochs: "longest" as many as it takes until the set
            that takes longest was gone through once (the others come more than once), "shortest" until the first one
            was (of the others a part is seen; the next epoch goes on with the rest), or a number.
        evaluate: names of the sets that are evaluated; None for all.
        clip: what every clip looks like; an experiment says it once, in its section ``clip``.
        batch_size: training clips per batch and rank, all of one set.
        val_batch_size: evaluation clips per batch and rank.
        num_workers: loader processes per rank.
        seed: decides the order, and the place of the training clips.
        samples_in_a_row: training samples of one set's turn, a multiple of ``batch_size`` times the number of ranks;
            None takes just these. A run that is to go on with other numbers of ranks gives a multiple of them all.

    Raises:
        InputError: weights or names do not fit the sets, or a set has a setting that is the mixture's.
    """

    def __init__(
        self,
        sets: dict[str, Callable[[], ClipDataModule]],
        weights: dict[str, float] | None = None,
        epoch: Literal["longest", "shortest"] | int = "longest",
        evaluate: list[str] | None = None,
        clip: ClipShape | None = None,
        batch_size: int = 4,
        val_batch_size: int = 4,
        num_workers: int = 4,
        seed: int = 0,
        samples_in_a_row: int | None = None,
    ) -> None:
        super().__init__(clip or ClipShape(), batch_size, val_batch_size, num_workers, seed, samples_in_a_row)
        if not sets:
            raise InputError("sets is empty; give at least one data set by a name of your choice")
        if isinstance(epoch, int) and epoch < 1:
            raise InputError(f"epoch is {epoch}; it must be at least 1 sample, or longest or shortest")
        if not isinstance(epoch, int) and epoch not in ("longest", "shortest"):
            raise InputError(f"epoch is {epoch!r}; choose from longest and shortest, or give a number of samples")
        self.weights = _weights(sets, weights)
        self.epoch = epoch
        self.evaluate = list(sets) if evaluate is None else list(evaluate)
        if unknown := [name for name in self.evaluate if name not in sets]:
            raise InputError(f"evaluate names {unknown[0]!r}, which is none of the sets {', '.join(sets)}; correct it")
        if not self.evaluate:
            raise InputError("evaluate is empty; name at least one set, or leave it out to evaluate all")
        self.sets = {name: self._made(name, make) for name, make in sets.items()}

    def prepare_data(self) -> None:
        """Lets the sets make what they make on their first use."""
        for data in self.sets.values():
            data.prepare_data()

    def groups(self, split: Split) -> ClipGroups:
        """The clips of a split: those of one set after another, in its own groups.

        Raises:
            InputError: a set's lists cannot be used; names the set.
        """
        names = list(self.sets) if split == "train" else self.evaluate
        of_sets = {name: self._groups_of(name, split) for name in names}
        sizes = {name: len(groups) for name, groups in of_sets.items()}
        return ClipGroups(
            [part for groups in of_sets.values() for part in groups.parts],
            [
                share * self.weights[name] / sum(groups.shares)
                for name, groups in of_sets.items()
                for share in groups.shares
            ],
            _behind_one_another(list(of_sets.values())),
            self._samples_of_a_pass(sizes) if split == "train" else None,
            [f"{name}/" for name, groups in of_sets.items() for _ in groups.parts],
        )

    def _groups_of(self, name: str, split: Split) -> ClipGroups:
        data = self.sets[name]
        data.trainer = self.trainer  # a clip's length depends on the model
        try:
            return data.groups(split)
        except InputError as error:
            hint = "" if split == "train" else " (data.evaluate can leave the set out)"
            raise InputError(f"data.sets.{name}: {error}{hint}") from None

    def _samples_of_a_pass(self, sizes: Mapping[str, int]) -> int:
        if isinstance(self.epoch, int):
            return self.epoch
        total = sum(self.weights.values())
        # as many samples as it takes, in the mean, to see all of each set
        needed = [math.ceil(sizes[name] * total / weight) for name, weight in self.weights.items()]
        return max(needed) if self.epoch == "longest" else min(needed)

    def _made(self, name: str, make: Callable[[], ClipDataModule]) -> ClipDataModule:
        # what the command line hands over knows what a file says of the set
        given: Mapping[str, Any] = getattr(make, "keywords", {})
        if given.get("clip") not in (None, self.clip):
            raise InputError(
                f"data.sets.{name}.clip: clips are described once, for all sets; leave it out and use the section clip"
            )
        defaults = _defaults(make)
        for setting in _OF_THE_MIXTURE:
            value = given.get(setting, defaults[setting])
            if value not in (defaults[setting], getattr(self, setting)):
                raise InputError(
                    f"data.sets.{name}.{setting} is {value}, but batches and loaders are the mixture's; set"
                    f" data.{setting} instead"
                )
        of_mixture = {setting: getattr(self, setting) for setting in ("clip", *_OF_THE_MIXTURE[:-1])}
        # a seed of the set's own moves its clips, not the order
        seed = given.get("seed") or self.seed
        made = cast("Callable[..., object]", make)(**of_mixture, seed=seed)
        if not isinstance(made, ClipDataModule):
            raise InputError(f"data.sets.{name} is a {type(made).__name__}; it must be a data set of recordings")
        return made


def _defaults(make: object) -> dict[str, object]:
    """What the class that is to be made takes for the mixture's settings where nobody says otherwise."""
    # a partial call of the class, or of a function that is given it
    parts = (getattr(make, "func", make), *getattr(make, "args", ()))
    of_class = next(
        (part for part in parts if isinstance(part, type) and issubclass(part, ClipDataModule)), ClipDataModule
    )
    known = {**inspect.signature(ClipDataModule).parameters, **inspect.signature(of_class).parameters}
    return {setting: known[setting].default for setting in _OF_THE_MIXTURE}


def _weights(sets: Mapping[str, object], weights: Mapping[str, float] | None) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(sets, 1.0)
    if set(weights) != set(sets):
        raise InputError(
            f"weights names {', '.join(sorted(weights)) or 'nothing'} and sets {', '.join(sorted(sets))}; give every"
            " set a weight"
        )
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise InputError(f"weights.{name} is {weight}; it must be positive (to leave a set out, remove it)")
    return {name: float(weights[name]) for name in sets}


def _behind_one_another(of_sets: Sequence[ClipGroups]) -> list[list[int]]:
    """The items that evaluations show, by their numbers in the mixture."""
    shown, first = [], 0
    for groups in of_sets:
        shown += [[first + item for item in items] for items in groups.shown]
        first += len(groups)
    return shown
