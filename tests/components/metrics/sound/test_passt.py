"""PaSST through the user's own package: what is said without it, and the same numbers as its own wrapper with it."""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
import torch

from components.errors import InputError
from components.metrics.sound.passt import Passt
from components.metrics.sound.tagger import TaggerFeatures
from tests.components.metrics.generations import noise, sounding


def test_without_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hear21passt", None)
    with pytest.raises(InputError, match=r"needs the package hear21passt.*pip install hear21passt"):
        Passt("passt.pt")


class FrontEnd(torch.nn.Module):
    """As the package's: draws its augmentation in evaluation too, and throws it away."""

    def __init__(self, **settings):
        super().__init__()

    def forward(self, sound):
        torch.randint(10, (1,))
        return sound[:, None, :64]


class Network(torch.nn.Module):
    embed_dim, num_classes = 8, 4

    def __init__(self):
        super().__init__()
        self.embed, self.name = torch.nn.Linear(64, 8), torch.nn.Linear(8, 4)

    def forward(self, mel):
        embedding = self.embed(mel[:, 0, 0])
        return self.name(embedding), embedding


def test_what_the_package_draws_is_not_missing_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    models, preprocess = ModuleType("hear21passt.models.passt"), ModuleType("hear21passt.models.preprocess")
    models.get_model = lambda arch, pretrained: Network()
    preprocess.AugmentMelSTFT = FrontEnd
    for module in (ModuleType("hear21passt"), ModuleType("hear21passt.models"), models, preprocess):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(Network().state_dict(), tmp_path / "passt.pt")
    passt = Passt(str(tmp_path / "passt.pt"))
    before = torch.get_rng_state()
    assert passt(noise(0.1, 32000))[1].shape == (4,)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_with_the_package(tmp_path: Path):
    """A network of full size with random weights."""
    pytest.importorskip("hear21passt")
    from hear21passt.models.passt import get_model
    from hear21passt.wrapper import PasstBasicWrapper

    with redirect_stdout(io.StringIO()):
        torch.save(get_model(arch="passt_s_swa_p16_128_ap476", pretrained=False).state_dict(), tmp_path / "passt.pt")
    passt = Passt(str(tmp_path / "passt.pt"))
    sound = noise(3.0, 32000)
    (found,) = TaggerFeatures(passt).features(sounding(sound[None], 32000), [0])
    (logits,) = TaggerFeatures(passt, "logits").features(sounding(sound[None], 32000), [0])
    wrapper = PasstBasicWrapper(passt.mel, passt.net, mode="all").eval()
    with torch.no_grad(), redirect_stdout(io.StringIO()):
        wanted = wrapper(torch.nn.functional.pad(sound, (0, 7 * 32000))[None])
    torch.testing.assert_close(torch.cat([logits, found], dim=1), wanted)
    with pytest.raises(InputError, match=r"'none.pt' does not exist; download passt-s-f128"):
        Passt("none.pt")
    with pytest.raises(InputError, match="arch is 'unknown'"):
        Passt(str(tmp_path / "passt.pt"), arch="unknown")
