"""VGGish: its filters and examples, public keys, one feature per 0.96 s."""

from pathlib import Path

import pytest
import torch

from components.errors import InputError
from components.metrics.sound.vggish import Vggish, VggishNet, mel_filters
from tests.components.metrics.generations import noise, sounding, tone


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vggish") / "vggish.pth"
    torch.save(VggishNet((2, 2, 3, 3, 4, 4), hidden=8, dim=6).state_dict(), file)
    return file


def test_filters_are_straight_on_the_mel_scale():
    filters = mel_filters()
    assert filters.shape == (257, 64)
    # 1 kHz (bin 32): 1127 ln(1 + 1000/700) = 999.99 mel; edges are 66 points from 185.17 to 2773.3 mel, 39.82 apart
    place = (999.99 - 185.17) / 39.82  # 20.46: between the tops of filters 19 (edge 20) and 20 (edge 21)
    assert filters[32, 19].item() == pytest.approx(21 - place, abs=0.01)
    assert filters[32, 20].item() == pytest.approx(place - 20, abs=0.01)
    assert filters[32].count_nonzero() == 2 and filters[0].sum() == 0 and filters[-1].sum() == 0


def test_examples_are_log_magnitudes_of_0_96_s(file: Path):
    vggish = Vggish(str(file))
    silent = vggish.examples(torch.zeros(16000 * 3))
    # 298 frames of 25 ms each 10 ms: three examples of 96
    assert silent.shape == (3, 96, 64)
    torch.testing.assert_close(silent, torch.full_like(silent, 0.01).log())
    loud = vggish.examples(tone(1000, 1.0, 16000, 0.5))[0].mean(0)
    assert int(loud.argmax()) in (19, 20)
    # a sine of amplitude 0.5 under a Hann window of 400: its bin is about 0.5 * 200 / 2 = 50
    assert loud.max().exp().item() == pytest.approx(50, rel=0.35)


def test_public_keys_and_size():
    with torch.device("meta"):
        vggish = Vggish("vggish-10086976.pth")
    shapes = {key: tuple(value.shape) for key, value in vggish.net.state_dict().items()}
    names = [f"features.{place}" for place in (0, 3, 6, 8, 11, 13)] + [f"embeddings.{place}" for place in (0, 2, 4)]
    assert set(shapes) == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    assert shapes["embeddings.0.weight"] == (4096, 512 * 4 * 6) and shapes["embeddings.4.weight"] == (128, 4096)
    assert vggish.dim == 128


def test_features(file: Path):
    vggish = Vggish(str(file))
    assert (vggish.dim, vggish.sample_rate) == (6, 16000)
    long, short = (vggish.features(sounding(noise(s, 44100)[None], 44100), [0])[0] for s in (5.0, 0.2))
    assert long.shape == (5, 6) and short.shape == (1, 6)
    # the picture is flattened with its channels last
    net = vggish.net
    examples = vggish.examples(noise(1.0, 16000))
    grid = net.features(examples[:, None])
    flat = torch.stack([grid[0, :, row, band] for row in range(6) for band in range(4)]).flatten()
    torch.testing.assert_close(net(examples)[0], net.embeddings(flat))
    # negative values too: the last ReLU is left out
    assert long.min() < 0
    assert set(vggish.identity()) == {"extractor", "weights_sha256"}


def test_missing_and_wrong_files(tmp_path: Path):
    with pytest.raises(InputError, match=r"'none.pth' does not exist; download vggish-10086976.pth.*Apache"):
        Vggish("none.pth")
    torch.save({"fc": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="holds no VGGish"):
        Vggish(str(tmp_path / "other.pth"))
