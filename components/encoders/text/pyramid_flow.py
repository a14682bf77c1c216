"""The frozen text encoders of both public Pyramid Flow releases: CLIP for the pooled vector, T5 for the tokens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.contracts import TextEncoder, TextFeatures
from components.encoders.text.rows import TextRow, split_rows, stack_rows
from components.errors import InputError

Tokenizer = Any
"""A tokenizer of transformers; None where only shapes are wanted (meta device)."""

Model = Any
"""A model of transformers, an `nn.Module` with its ``config``."""


class PyramidFlowText(TextEncoder):
    """T5's last hidden states and the pooled vectors of one or two CLIPs, side by side.

    Prompts of a batch that are alike are encoded once, the empty prompt (the null text) once and for all. Nothing is
    computed for padding: T5 is given its mask and knows relative positions only, CLIP is causal, so a prompt's
    features do not depend on the length it is padded to. Always in evaluation mode, without gradients and untouched
    by autocast. `components.encoders.text.pyramid_flow_folder` loads one from a release.

    Args:
        clips: what gives the pooled vector, in order.
        t5: what gives the tokens.
        pad_to: shortest number of token positions to return; 0 for the longest prompt of the batch. The transformers
            cut padding off before they run, so that padded features only cost memory.
    """

    def __init__(self, clips: Sequence[ClipText], t5: T5Text, pad_to: int = 0) -> None:
        super().__init__()
        self.clips = nn.ModuleList(clips)
        self.t5 = t5
        self.pad_to = pad_to
        self.dim = t5.dim
        self.pooled_dim = sum(clip.dim for clip in clips)
        self._null: TextRow | None = None
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> PyramidFlowText:
        """Stays in evaluation mode whatever is asked for: a trainer must not switch T5's dropout on."""
        super().train(False)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PyramidFlowText:
        self._null = None  # encoded with weights of another device or precision
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch annotates nothing here
        return self

    def forward(self, prompts: Sequence[str]) -> TextFeatures:
        """B prompts to tokens ``[B, M, dim]`` and pooled ``[B, pooled_dim]`` on the device of the weights.

        Too long prompts are truncated, with a warning the first time.
        """
        known = {} if self._null is None else {"": self._null}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        if new:
            known.update(zip(new, self._encode(new), strict=True))
        self._null = known.get("")
        return stack_rows([known[prompt] for prompt in prompts], self.pad_to)

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> list[TextRow]:
        weights = next(self.t5.parameters())
        if weights.is_meta:
            raise InputError("the text encoder was built on the meta device, for its shapes alone: build it elsewhere.")
        with torch.autocast(weights.device.type, enabled=False):
            tokens, mask = self.t5(prompts)
            pooled = torch.cat([clip(prompts) for clip in self.clips], dim=-1)
        return split_rows(TextFeatures(tokens, mask, pooled))


class ClipText(nn.Module):
    """The state at a prompt's end token, projected if the model is a ``CLIPTextModelWithProjection``."""

    def __init__(self, tokenizer: Tokenizer, model: Model) -> None:
        super().__init__()
        self.tokenize = Tokenize("CLIP", tokenizer, model.config.max_position_embeddings)
        self.model = model
        # told by the model: miniFLUX pools the hidden state, SD3 projects it
        self.projected = hasattr(model, "text_projection")
        self.dim = int(model.config.projection_dim if self.projected else model.config.hidden_size)

    def forward(self, prompts: list[str]) -> Tensor:
        """B prompts to pooled ``[B, dim]``."""
        ids = self.tokenize(prompts).input_ids.to(next(self.parameters()).device)
        output = self.model(input_ids=ids)
        pooled: Tensor = output.text_embeds if self.projected else output.pooler_output
        return pooled


class T5Text(nn.Module):
    """T5's encoder under its padding mask."""

    def __init__(self, tokenizer: Tokenizer, model: Model, max_length: int) -> None:
        super().__init__()
        self.tokenize = Tokenize("T5", tokenizer, max_length)
        self.model = model
        self.dim = int(model.config.d_model)

    def forward(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """B prompts to tokens ``[B, M, dim]`` and, on the host, their bool mask ``[B, M]``, M the longest prompt."""
        batch = self.tokenize(prompts)
        mask = batch.attention_mask.bool()
        batch = batch.to(next(self.parameters()).device)
        output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        return output.last_hidden_state, mask


class Tokenize:
    """Prompts to ids, padded to the longest and truncated as in training, which is said once."""

    def __init__(self, name: str, tokenizer: Tokenizer, max_length: int) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.has_warned = False

    def __call__(self, prompts: list[str]) -> Any:
        """``input_ids`` and ``attention_mask``, both ``[B, M]``."""
        batch = self.tokenizer(
            prompts, padding="longest", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        cut = [prompt for prompt, row in zip(prompts, batch.encodings, strict=True) if row.overflowing]
        if cut and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{self.name} reads {self.max_length} tokens, so the prompt '{cut[0][:60]}...' is cut short "
                "(said once, later ones are cut in silence)",
                stacklevel=2,
            )
        return batch
