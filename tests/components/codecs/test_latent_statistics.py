"""Statistics of latents: exact whatever the batches, kept with their codec, never half written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.codecs.latent_statistics import ChannelNormalisation, LatentStatistics, statistics_of
from components.errors import InputError


def latents(clips: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    return torch.randn(clips, 3, 11, generator=torch.Generator().manual_seed(seed)) * 2 + offset


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.integers(0, 100), st.sampled_from([0, 1e4]))
@settings(max_examples=40, deadline=None)
def test_batches_do_not_show(sizes: list[int], seed: int, offset: float):
    whole = latents(sum(sizes), seed, offset)
    found = statistics_of(whole.split(sizes), 3)
    values = whole.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(found.mean.numpy(), values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.std.numpy(), values.std(axis=1), rtol=1e-9)
    assert (found.num_clips, found.num_values) == (sum(sizes), sum(sizes) * 11)


def test_video_latents_have_channels_too():
    video = torch.randn(2, 4, 3, 5, 6)
    statistics = LatentStatistics.of(video)
    normalised = ChannelNormalisation(statistics.mean, statistics.std)(video)
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2, 3, 4), correction=0), torch.ones(4))


def test_a_file_holds_all_of_it(tmp_path: Path):
    file = tmp_path / "new" / "statistics.json"
    statistics = LatentStatistics.of(latents(4), "a codec")
    statistics.save(file)
    assert [entry.name for entry in file.parent.iterdir()] == ["statistics.json"]
    loaded = LatentStatistics.load(file, 3, "a codec")
    assert (loaded.num_clips, loaded.num_values, loaded.codec) == (4, 44, "a codec")
    torch.testing.assert_close(loaded.mean, statistics.mean, atol=0, rtol=0)
    torch.testing.assert_close(loaded.std, statistics.std, atol=0, rtol=1e-14)
    normalisation = ChannelNormalisation.from_file(file, 3)
    raw = latents(2, 1)
    torch.testing.assert_close(normalisation.inverse(normalisation(raw)), raw)
    assert normalisation(raw.bfloat16()).dtype == torch.float32


def test_bad_files_are_told_in_one_sentence(tmp_path: Path):
    file = tmp_path / "statistics.json"
    LatentStatistics.of(latents(2), "a codec").save(file)
    content = json.loads(file.read_text())
    with pytest.raises(InputError, match="no clip"):
        LatentStatistics.empty(3).save(tmp_path / "empty.json")
    assert not (tmp_path / "empty.json").exists()
    with pytest.raises(InputError, match="cannot write"):
        LatentStatistics.of(latents(2)).save(file / "below a file.json")
    broken = {
        "no JSON": "{",
        "no file of latent statistics": json.dumps({"mean": [1.0]}),
        "without spread": json.dumps(content | {"std": [1.0, 0.0, 1.0]}),
    }
    for message, text in broken.items():
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(InputError, match="no file of latent" if message == "no JSON" else message):
            LatentStatistics.load(tmp_path / "broken.json")
    for message, arguments in {
        "compute them first": ("absent.json",),
        "3 channels, but this codec has 4": (file, 4),
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            LatentStatistics.load(*arguments)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="a codec, but this one is another"):
        LatentStatistics.load(file, 3, "another")
