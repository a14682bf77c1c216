"""Two processes that hold half of an adapted model each train the adapters that one process trains."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from components.backbones.lora import is_adapter
from tests.lightning_modules.harmony.lora_ranks import fit, fit_sharded
from tests.processes import run_ranks, told

pytestmark = pytest.mark.gate


@pytest.mark.filterwarnings("ignore")
def test_two_sharded_processes_train_the_same_adapters(tmp_path: Path):
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
    ended = run_ranks(fit_sharded, (tmp_path / "two",), 2)
    assert [one.status for one in ended] == [0, 0], told(ended)
    sharded = tmp_path / "two" / "2.ckpt"
    mine, theirs = (torch.load(path, weights_only=True) for path in (sharded, fit(tmp_path / "one")))
    assert mine["frozen"] == theirs["frozen"]
    assert {"transformer", "video_tower", "audio_tower"} <= mine["frozen"].keys()
    assert mine["harmony_lora"] == theirs["harmony_lora"]
    assert mine["state_dict"].keys() == theirs["state_dict"].keys()
    assert any(is_adapter(name) and name.startswith("ema.") for name in mine["state_dict"])
    for name, value in mine["state_dict"].items():
        assert_close(value, theirs["state_dict"][name], atol=2e-5, rtol=0, msg=name)
    states = [found["optimizer_states"][0]["state"] for found in (mine, theirs)]
    assert states[0].keys() == states[1].keys()
    fit(tmp_path / "one", seed=1, steps=3, resume=sharded)
