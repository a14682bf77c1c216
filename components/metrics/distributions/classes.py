"""What a classifier's probabilities say of generated clips: inception score and divergence from the real clips.

Any classifier: Inception of frames, PANNs or PaSST of sounds. Salimans et al., "Improved Techniques for Training GANs"
(2016); metrics specification, section 9.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from components.errors import InputError

SHUFFLE_SEED = 2020
"""Of the order in which clips fall into splits, as torch-fidelity has it."""


def class_divergence(
    real_logits: Tensor, generated_logits: Tensor, classes: Literal["exclusive", "independent"] = "exclusive"
) -> Tensor:
    """``sum_c p (log p - log q)`` of each real clip's p and its generated clip's q, float64 ``[B]``.

    Args:
        real_logits: ``[B, C]``.
        generated_logits: ``[B, C]`` of the same clips.
        classes: ``exclusive`` takes the softmax (KL in the tables); ``independent`` takes the sigmoid of each class,
            as for classifiers of sound events. The latter is no divergence: the absence of a class does not count.
    """
    log = F.logsigmoid if classes == "independent" else _log_softmax
    real, generated = log(real_logits.double()), log(generated_logits.double())
    return (real.exp() * (real - generated)).sum(dim=1)


def inception_score(logits: Tensor, splits: int = 1, seed: int = SHUFFLE_SEED) -> tuple[Tensor, Tensor]:
    """``exp`` of the mean divergence of each clip's classes from those of all: mean and deviation over the splits.

    Args:
        logits: ``[N, C]`` of the generated clips.
        splits: parts that are scored apart; with fewer than 500 clips take 1.
        seed: of the clips' order before they are split, which is left alone where there is one split.

    Returns:
        Two float64 scalars, 1 to C and 0 upwards (ddof 0); NaN where there are fewer clips than splits.
    """
    log = _log_softmax(logits.double())
    if len(log) < splits:
        return log.new_tensor(math.nan), log.new_tensor(math.nan)
    if splits > 1:
        log = log[torch.from_numpy(np.random.RandomState(seed).permutation(len(log))).to(log.device)]
    scores = []
    for part in range(splits):
        own = log[part * len(log) // splits : (part + 1) * len(log) // splits]
        marginal = own.logsumexp(dim=0) - math.log(len(own))
        scores.append((own.exp() * (own - marginal)).sum(dim=1).mean().exp())
    scored = torch.stack(scores)
    return scored.mean(), scored.std(correction=0)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(dim=1)


class InceptionScore(Metric):
    """Inception score of clips that arrive in batches.

    One split comes out the same under any sharding; with more, which clips share a split depends on the ranks' order.

    Args:
        num_classes: of the classifier.
        splits: parts that are scored apart; with fewer than 500 clips leave it at 1.
        kwargs: handed to :class:`torchmetrics.Metric`.

    Raises:
        InputError: if a number is out of range.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    logits: list[Tensor] | Tensor

    def __init__(self, num_classes: int, splits: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("num_classes", num_classes), ("splits", splits)):
            if value < 1:
                raise InputError(f"InceptionScore.{name} is {value}; it must be at least 1")
        self.num_classes, self.splits = num_classes, splits
        # lines of float32, see `KernelDistance`
        self.add_state("logits", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor) -> None:
        """Adds logits ``[N, num_classes]``.

        Raises:
            InputError: if they have another width.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise InputError(f"logits are {list(logits.shape)}; [clips, {self.num_classes}] are needed")
        assert isinstance(self.logits, list)  # one tensor only while several ranks' are together, in `compute`
        self.logits.append(logits.detach().float().flatten())

    def compute(self) -> dict[str, Tensor]:
        """``inception_score``, ``inception_score_sd`` (over the splits) and ``n_generated`` clips."""
        line = dim_zero_cat(self.logits) if len(self.logits) else torch.zeros(0, device=self.device)
        rows = line.view(-1, self.num_classes)
        mean, deviation = inception_score(rows, self.splits)
        return {
            "inception_score": mean,
            "inception_score_sd": deviation,
            "n_generated": torch.tensor(len(rows), device=mean.device),
        }
