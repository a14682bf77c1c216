"""What was asked for where no real clip is known: a list of prompts, or what is said beside generated files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.clock import ClipShape
from components.media.reader import read_image
from components.weights.named_files import names_files
from components.weights.pretrained import located
from datamodules.reading.folder import read_folder
from datamodules.reading.named_media import NamedMedia
from datamodules.reading.order import EvaluationSampler, SampleKey, rank_and_world_size
from datamodules.reading.prompt_list import Prompt, is_prompt_list, picture_of, read_prompts
from datamodules.reading.records import ClipRecord
from datamodules.reading.reference_voices import ReferenceVoices


@dataclass(frozen=True)
class _Asked:
    prompt: Prompt
    valid: bool


class _Prompts(Dataset[_Asked]):
    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._prompts = prompts

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, key: SampleKey) -> _Asked:
        return _Asked(self._prompts[key.item], key.valid)


@names_files("root", "images")
class PromptClips(L.LightningDataModule):
    """Clips of which only the prompts are known: a batch has no real pictures and no real sound.

    Metrics that compare with real clips have nothing to compare with; the others judge as ever. Where a list names
    ``reference_image``, that picture is the batch's only frame; ``reference_audio`` is its reference voice.

    Args:
        root: a list of prompts (`read_prompts`); or generated files, whose pictures are not read, with what is said
            beside them (captions may be missing): a manifest, or a folder as `FolderClips` reads it.
        clip: what the generated clips look like.
        batch_size: clips per batch and rank.
        images: folder of the first frames that the clips were made from, called after them, for those whose row names
            none.
        reference_s: length in seconds of the slot for the reference voice; what is longer is cut.

    Raises:
        InputError: ``clip`` is not given, or ``root`` cannot be used; in ``setup``, ``images`` lack a clip's picture.
    """

    def __init__(
        self,
        root: str,
        clip: ClipShape | None = None,
        batch_size: int = 1,
        images: str | None = None,
        reference_s: float = 3.0,
    ) -> None:
        super().__init__()
        if clip is None:
            raise InputError("clip is not given; say what the clips look like (avsync score reads it off the files)")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        self.root, self.clip, self.batch_size = located(root), clip, batch_size
        self.images = None if images is None else located(images)
        self._prompts: list[Prompt] = []
        self._voices = ReferenceVoices([], reference_s, clip.sample_rate)

    def setup(self, stage: str) -> None:
        """Reads the list."""
        del stage
        if not self._prompts:
            self._prompts = [self._with_image(prompt) for prompt in self._read()]

    def clip_names(self, split: str) -> list[str]:
        """What the clips are called."""
        del split
        return [prompt.id for prompt in self._prompts]

    def test_dataloader(self) -> DataLoader[_Asked]:
        """All clips in the order of the list."""
        rank, world_size = rank_and_world_size(self.trainer)
        # a picture for each clip or none: batches are of one form
        return DataLoader(
            _Prompts(self._prompts),
            batch_size=self.batch_size if len({prompt.image is None for prompt in self._prompts}) == 1 else 1,
            sampler=EvaluationSampler(len(self._prompts), rank, world_size),
            collate_fn=self._batch,
        )

    def val_dataloader(self) -> DataLoader[_Asked]:
        """As `test_dataloader`."""
        return self.test_dataloader()

    def _read(self) -> Iterator[Prompt]:
        if not self.root.is_dir():
            media = NamedMedia(self.root.parent, absolute=True)
            yield from read_prompts(self.root, media, of_files=not is_prompt_list(self.root))
            return
        for records in read_folder(self.root, {}, "", None).values():
            for record in records:
                yield Prompt(
                    record.id,
                    record.caption,
                    record.scene,
                    record.transcript,
                    record.language,
                    record.subset,
                    reference=record.reference,
                    video_id=record.video_id,
                )

    def _with_image(self, prompt: Prompt) -> Prompt:
        if prompt.image is not None or self.images is None:
            return prompt
        return replace(prompt, image=picture_of(self.images, prompt.id))

    def _references(self, prompts: Sequence[Prompt]) -> tuple[Tensor | None, Tensor | None]:
        """Reference voices ``[B, S_ref]`` and their lengths ``[B]``, if any clip of the list has one."""
        if all(prompt.reference is None for prompt in self._prompts):
            return None, None
        records = [ClipRecord(one.id, self.root, one.caption, one.id, reference=one.reference) for one in prompts]
        # without a generator: the beginning of the voice, as the model was given it
        voices = [self._voices.draw(record, None) for record in records]
        return torch.stack([sound for sound, _ in voices]), torch.tensor([length for _, length in voices])

    def _batch(self, asked: Sequence[_Asked]) -> ClipBatch:
        prompts, clip = [one.prompt for one in asked], self.clip
        images = [read_image(p.image, clip.height, clip.width)[None] for p in prompts if p.image is not None]
        none = torch.zeros(len(prompts), 0, 3, clip.height, clip.width, dtype=torch.uint8)
        references, lengths = self._references(prompts)
        return ClipBatch(
            ids=[prompt.id for prompt in prompts],
            video=torch.stack(images) if images else none,
            fps=clip.fps,
            audio=torch.zeros(len(prompts), 0),
            sample_rate=clip.sample_rate,
            captions=[prompt.caption for prompt in prompts],
            video_ids=[prompt.video_id or prompt.id for prompt in prompts],
            transcripts=_known([prompt.transcript for prompt in prompts]),
            reference_audio=references,
            reference_lengths=lengths,
            scenes=_known([prompt.scene for prompt in prompts]),
            languages=_known([prompt.language for prompt in prompts]),
            subsets=_known([prompt.subset for prompt in prompts]),
            valid=torch.tensor([one.valid for one in asked]),
        )


def _known(values: Sequence[str | None]) -> list[str] | None:
    """What a batch has of a field: empty where a clip has none, None where no clip has any."""
    return [value or "" for value in values] if any(values) else None
