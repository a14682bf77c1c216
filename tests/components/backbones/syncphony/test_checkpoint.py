"""Audio layers go to a file beside the exported transformer and come back."""

from pathlib import Path

import pytest
import torch

from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.syncphony.checkpoint import AUDIO_LAYERS_FILE, save_audio_layers
from components.backbones.syncphony.model import SyncphonyDiT
from components.errors import InputError
from tests.tiny_syncphony import tiny_backbone, tiny_dit


def test_layers_come_back_and_train(tmp_path: Path):
    trained = tiny_dit(seed=3)
    save_audio_layers(trained.audio_parts, tmp_path)
    back = tiny_dit(random_audio=False, seed=4, audio_weights=str(tmp_path))
    for part in ("audio_embedder", "audio_layers"):
        for (name, a), (_, b) in zip(
            getattr(trained, part).named_parameters(), getattr(back, part).named_parameters(), strict=True
        ):
            assert torch.equal(a, b) and b.requires_grad, name
    with torch.device("meta"):
        assert tiny_dit_shapes(str(tmp_path))


def tiny_dit_shapes(folder: str) -> bool:
    backbone = MiniFluxTransformer(16, 2, 3, 16, 2, 12, 10, (4, 6, 6))
    dit = SyncphonyDiT(backbone, 2, 6, audio_weights=folder)
    return all(parameter.is_meta for parameter in dit.parameters())


def test_a_transformer_without_audio_layers_writes_nothing(tmp_path: Path):
    save_audio_layers(SyncphonyDiT(tiny_backbone("miniflux"), 2, None).audio_parts, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=f"{AUDIO_LAYERS_FILE}' does not exist; give dit.audio_weights a folder"):
        tiny_dit(audio_weights=str(tmp_path))
    save_audio_layers(tiny_dit(first_late_block=3).audio_parts, tmp_path)
    with pytest.raises(InputError, match=r"missing: audio_layers\.2"):
        tiny_dit(first_late_block=2, audio_weights=str(tmp_path))
    with pytest.raises(InputError, match="audio_dim is null"):
        SyncphonyDiT(tiny_backbone("miniflux"), 2, None, audio_weights=str(tmp_path))
