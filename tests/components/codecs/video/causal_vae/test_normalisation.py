"""Statistics of latents, and the folder that carries them beside the weights they belong to."""

import json
from pathlib import Path

import pytest
import torch

from components.codecs.video.causal_vae.checkpoint import load_vae, save_vae, stored_normalisation
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.normalisation import (
    MINIFLUX_NORMALISATION,
    SD3_NORMALISATION,
    LatentNormalisation,
    VideoLatentStatistics,
)
from components.errors import InputError
from components.weights.whole_folder import whole_folder
from tests.components.codecs.video.causal_vae.test_model import tiny_vae

OWN = LatentNormalisation(0.1, 0.5, -0.2, 2.0)


def latents(batch: int, length: int = 3, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(batch, 2, length, 2, 3, generator=torch.Generator().manual_seed(seed))
    noise[:, :, 0] = noise[:, :, 0] * 3 + 5
    noise[:, :, 1:] = noise[:, :, 1:] * 0.5 - 100  # far from 0: sums of squares would cancel
    return noise


def test_batches_of_any_size_have_the_moments_of_the_whole():
    parts = [latents(size, seed=size) for size in (1, 4, 2)]
    statistics = VideoLatentStatistics.empty()
    for part in parts:
        statistics = statistics.merged(VideoLatentStatistics.of(part))
    whole = torch.cat(parts).double()
    found = statistics.over_ranks().normalisation()
    first, later = whole[:, :, 0], whole[:, :, 1:]
    expected = [first.mean(), first.std(correction=0), later.mean(), later.std(correction=0)]
    assert list(vars(found).values()) == pytest.approx([value.item() for value in expected], rel=1e-9)
    normal = found.normalise(torch.cat(parts))
    for part in (normal[:, :, 0], normal[:, :, 1:]):
        assert part.mean().item() == pytest.approx(0, abs=1e-4)
        assert part.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_single_images_have_one_normalisation():
    found = VideoLatentStatistics.of(latents(4, length=1)).normalisation()
    assert (found.first_shift, found.first_std) == (found.later_shift, found.later_std)


def test_a_folder_carries_config_weights_and_normalisation(tmp_path: Path):
    vae = tiny_vae(seed=3)
    with whole_folder(tmp_path / "vae") as folder:
        save_vae(vae, OWN, folder)
    codec = CausalVideoCodec.from_pretrained(tmp_path / "vae")
    assert codec.normalisation == OWN and codec.vae.config == vae.config
    assert all(torch.equal(value, codec.vae.state_dict()[key]) for key, value in vae.state_dict().items())
    assert CausalVideoCodec.from_pretrained(tmp_path / "vae", SD3_NORMALISATION).normalisation == SD3_NORMALISATION
    with torch.device("meta"):
        assert load_vae(tmp_path / "vae").config == vae.config
    save_vae(vae, OWN, tmp_path / "vae", torch.bfloat16)  # over an export whose digests are noted
    assert load_vae(tmp_path / "vae", dtype=None).dtype == torch.bfloat16


def test_the_public_folders_have_none_and_are_normalised_as_miniflux_is(tmp_path: Path):
    save_vae(tiny_vae(), OWN, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["latent_normalisation"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stored_normalisation(tmp_path) is None
    assert CausalVideoCodec.from_pretrained(tmp_path).normalisation == MINIFLUX_NORMALISATION


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ([1.0], r"latent_normalisation is \[1.0\], but the numbers first_shift, .* are needed"),
        ({"first_shift": 0.0}, "are needed; export the VAE anew"),
        ({**vars(OWN), "later_std": "2"}, "are needed; export the VAE anew"),
        ({**vars(OWN), "later_std": 0.0}, "has a divisor that is not positive"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path: Path, entry: object, sentence: str):
    save_vae(tiny_vae(), OWN, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "latent_normalisation": entry}))
    with pytest.raises(InputError, match=sentence):
        CausalVideoCodec.from_pretrained(tmp_path)
