"""Distances between everything a model generates and the real clips, as sets: FID, FVD, KVD, FAD, inception scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import GENERATED, REAL, entry_name, gathered
from callbacks.judge import remembered
from callbacks.pace import PacedCallback
from components.contracts import Generation, MetricResult
from components.errors import InputError
from components.metrics.distributions.classes import InceptionScore
from components.metrics.distributions.set_distance import DISTANCES, SetDistance
from components.metrics.scorers import FeatureExtractor, real_clips
from components.weights.identity import sha256_of_facts

INCEPTION_SCORE = "inception_score"


class SetMetrics(PacedCallback):
    """Compares the features of generated clips and of each variant with those of the real clips.

    A distance is one number of a whole set: it has no interval, no score per clip, and depends on how many clips there
    are, so that number goes with the entry. Features of real clips are found once in a run.

    Args:
        extractor: frozen here, never part of the trained model; on the model's device only while it is needed.
        metrics: what an entry is called -> what it is: ``{fvd: frechet, kvd: kernel}``, or ``inception_score`` where
            features are a classifier's logits (which is said of real clips as well).
        every_n_evaluations: measure in every n-th validation of a training only. The last one of a training counts
            always, and so do ``validate`` and ``test``.

    Raises:
        InputError: if there is no such distance, none is asked for, or ``every_n_evaluations`` is below 1.
    """

    needs_reference = True

    def __init__(self, extractor: FeatureExtractor, metrics: dict[str, str], every_n_evaluations: int = 1) -> None:
        super().__init__()
        known = (*DISTANCES, INCEPTION_SCORE)
        for name, kind in metrics.items():
            if kind not in known:
                raise InputError(f"SetMetrics.metrics has {name}: {kind}; use {', '.join(known)}")
        if not metrics:
            raise InputError(f"SetMetrics.metrics is empty; give names and what they are, such as fid: {known[0]}")
        self.report_as(tuple(metrics), "metrics")
        self._kind_of = dict(metrics)
        self.keep_pace(every_n_evaluations)
        self.extractor = extractor.requires_grad_(False).eval()
        facts = {"extractor": f"{type(extractor).__module__}.{type(extractor).__qualname__}", **extractor.identity()}
        self._judge = {**facts, "judge": sha256_of_facts(facts)[:16]}
        self._sets: dict[str, _Compared] = {}
        self._real: dict[tuple[str, int], Tensor] = {}
        self._device = torch.device("cpu")

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The names that the configuration gives them."""
        return tuple(arguments["metrics"])

    @property
    def state_key(self) -> str:
        """Tells the extractors of a run apart in its checkpoints."""
        return f"{type(self).__qualname__}{list(self.metrics)}"

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Moves the extractor to where the videos are, if it is its turn."""
        self._sets, self._device = {}, module.device
        if self.is_its_turn(trainer):
            self.extractor.to(module.device).eval()

    @torch.no_grad()
    def update(self, generation: Generation) -> None:
        """Adds the clips that are not repeated to even out ranks, if it is its turn."""
        rows = generation.valid_mask().nonzero().flatten().tolist()
        if not (rows and self.measures):
            return
        real = self._features_of_real(generation, rows)
        for kind, made in {GENERATED: generation, **generation.variants}.items():
            compared = self._set(kind)
            compared.update(torch.cat(self._features(made, rows)), real=False)
            compared.update(torch.cat(real), real=True)
        if INCEPTION_SCORE in self._kind_of.values():
            self._set(REAL).update(torch.cat(real), real=False)

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Compares the sets of all ranks, if it is its turn; nothing stands in the results otherwise."""
        self.results = {}
        if self.measures:
            # a rank without clips does not know what kinds there are, and all have to compute each
            kinds = sorted(set(gathered(trainer, list(self._sets))), key=lambda kind: (kind != GENERATED, kind))
            for kind in kinds:
                self.results |= self._entries(kind, self._set(kind))
            self.log_results(trainer, module)
        self.abandon()

    def abandon(self) -> None:
        """Takes the extractor off the model's device."""
        self.extractor.cpu()
        self._sets = {}

    def _set(self, kind: str) -> _Compared:
        if kind not in self._sets:
            only = [INCEPTION_SCORE] if kind == REAL else list(self._kind_of.values())
            self._sets[kind] = _Compared(self.extractor.dim, only, self._device)
        return self._sets[kind]

    def _features(self, generation: Generation, rows: Sequence[int]) -> list[Tensor]:
        """Features of each clip ``[N, dim]``, checked for what an extractor of one's own may get wrong."""
        with torch.autocast(generation.video.device.type, enabled=False):
            found = self.extractor.features(generation, rows)
        if len(found) != len(rows):
            name = type(self.extractor).__qualname__
            raise InputError(f"{name}.features gave those of {len(found)} clips for {len(rows)}; one each is needed")
        return found

    def _features_of_real(self, generation: Generation, rows: Sequence[int]) -> list[Tensor]:
        batch = generation.reference

        def find(new: list[int]) -> list[Tensor]:
            return [item.cpu() for item in self._features(real_clips(batch), [rows[index] for index in new])]

        keys = [(batch.ids[row], batch.num_frames) for row in rows]
        return [item.to(self._device) for item in remembered(self._real, keys, find)]

    def _entries(self, kind: str, compared: _Compared) -> dict[str, MetricResult]:
        values = {name: value.item() for name, value in compared.compute().items()}
        numbers = {name: int(value) for name, value in values.items() if name in ("n_real", "n_generated")}
        return {
            entry_name(name, kind): MetricResult(
                values[what], (math.nan, math.nan), numbers["n_generated"], {**numbers, **self._judge}
            )
            for name, what in self._kind_of.items()
            if what in values
        }


class _Compared:
    """What is computed of one kind of clip and the real ones, the same under any sharding."""

    def __init__(self, dim: int, whats: Sequence[str], device: torch.device) -> None:
        distances = [what for what in DISTANCES if what in whats]
        self._distances = SetDistance(dim, distances).to(device) if distances else None
        self._classes = InceptionScore(dim).to(device) if INCEPTION_SCORE in whats else None

    def update(self, features: Tensor, real: bool) -> None:
        """Adds features ``[N, dim]``; classes are looked at in the generated ones alone."""
        if self._distances is not None:
            self._distances.update(features, real)
        if self._classes is not None and not real:
            self._classes.update(features)

    def compute(self) -> dict[str, Tensor]:
        """Every distance and score by its name, and how many features there are; every rank has to call it."""
        distances = {} if self._distances is None else self._distances.compute()
        return distances | ({} if self._classes is None else self._classes.compute())
