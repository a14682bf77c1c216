"""Files that any program has generated, in place of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.media.clock import ClipShape
from components.media.reader import MediaReader
from components.weights.named_files import names_files
from lightning_modules.judged_files.headers import Header, check_headers, headers
from lightning_modules.judged_files.matching import listed_files, matched

_GENERATED = "generated"


@names_files("folder")
class GeneratedFiles(L.LightningModule):
    """Reads, for every clip of a batch, the file that was generated for it, to be judged as models are.

    Nothing is learnt and nothing trains; ``avsync score`` runs it in the loop of ``avsync test``, with any data module
    as the reference.

    Args:
        folder: the generated files, or a manifest of them (`listed_files`); files are matched to clips by their names.
        variants: further folders of the same clips by name, such as ``off_sync``.
        sound: ``generated`` judges the files' sound (and where it is bit for bit the real one, as audio-to-video models
            hand it through, knows it as such); ``reference`` judges the pictures by the real clips' sound, whatever
            the files hold.
        size: of the pictures: the files' ``own``, or the ``reference``'s, to which they are scaled and cropped.
        other_files: what becomes of files that belong to no clip: ``error`` or ``ignore``.

    Raises:
        InputError: a variant's name is no word or means something else; in ``setup``, if files and clips do not match.
    """

    def __init__(
        self,
        folder: str,
        variants: Mapping[str, str] | None = None,
        sound: Literal["generated", "reference"] = "generated",
        size: Literal["own", "reference"] = "own",
        other_files: Literal["error", "ignore"] = "error",
    ) -> None:
        super().__init__()
        self.folder, self.variants = folder, dict(variants or {})
        for name in self.variants:
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in (_GENERATED, "real", "chance"):
                raise InputError(
                    f"model.variants names '{name}'; use letters, digits and underscores, and neither generated, real "
                    "nor chance, which mean something else"
                )
        self.sound, self.size, self.other_files = sound, size, other_files
        self._files: dict[str, dict[str, Path]] = {}
        self._headers: dict[str, dict[Path, Header]] = {}
        self._clip: ClipShape | None = None

    def setup(self, stage: str) -> None:
        """Matches files and clips, as `check` does."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names = getattr(data, "clip_names", None)
        if not callable(names):
            raise InputError(
                f"{type(data).__name__} does not say what its clips are called (clip_names), so that files cannot be "
                "matched; derive it from datamodules.reading.clip_data_module.ClipDataModule"
            )
        self.check(names("val" if stage == "validate" else "test"), data.clip)

    def check(self, clips: Sequence[str], clip: ClipShape) -> None:
        """Finds the file of every clip and looks at all headers; of the pictures first frames alone are decoded.

        Args:
            clips: names of the clips.
            clip: what they look like.

        Raises:
            InputError: files are missing, belong to no clip, or are not what the clips are; names them.
        """
        self._clip = clip
        for kind, root in {_GENERATED: self.folder, **self.variants}.items():
            files = matched(root, listed_files(root), clips, self.other_files == "ignore")
            found = headers(files.values())
            check_headers(root, found, clip, self.sound == "generated", self.size == "own")
            self._files[kind], self._headers[kind] = files, found

    def test_step(self, batch: ClipBatch, batch_idx: int) -> Generation:  # type: ignore[override]
        """What the files of a batch's clips hold."""
        variants = {name: self._read(name, batch) for name in self.variants}
        return replace(self._read(_GENERATED, batch), variants=variants)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> Generation:  # type: ignore[override]
        """As `test_step`."""
        return self.test_step(batch, batch_idx)

    def _read(self, kind: str, batch: ClipBatch) -> Generation:
        assert self._clip is not None
        # one frame, or none: there is no real clip, whose length would be the files'
        num_frames = batch.video.shape[1] if batch.video.shape[1] > 1 else self._clip.num_frames
        videos, sounds = [], []
        rate = batch.sample_rate
        for name in batch.ids:
            file = self._files[kind][name]
            header = self._headers[kind][file]
            height, width = batch.video.shape[-2:] if self.size == "reference" else (header.height, header.width)
            with MediaReader(file) as media:
                videos.append(media.video(0.0, num_frames, batch.fps, height, width))
                if self.sound == "generated":
                    rate = header.info.sample_rate or rate
                    sounds.append(media.audio(0.0, round(num_frames / batch.fps * rate), rate))
        # the same operations as in `ClipFiles`, so that scores are the same to the last bit
        video = torch.stack(videos).to(self.device).float() / 255
        audio = torch.stack(sounds).to(self.device) if sounds else batch.audio
        return Generation(video, batch.fps, self._known(audio, rate, batch), rate, batch, valid=batch.valid)

    def _known(self, audio: Tensor, rate: int, batch: ClipBatch) -> Tensor:
        """The batch's own sound where the files have just that: it drove the generation."""
        if rate != batch.sample_rate or audio.shape != batch.audio.shape or not torch.equal(audio, batch.audio):
            return audio
        return batch.audio
