"""The known architectures are those of the releases, and of the constructors' defaults."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.pyramid_flow.mmdit import PyramidMMDiT
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.weights.public_checkpoints import CONFIGS, as_the_pipeline_runs_it

CLASSES = {
    "PyramidFluxTransformer": MiniFluxTransformer,
    "PyramidDiffusionMMDiT": PyramidMMDiT,
    "CausalVideoVAE": CausalVideoVAE,
}


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_setting_is_the_default_of_its_class(name: tuple[str, str]):
    config = plain(CONFIGS[name])
    parameters = inspect.signature(CLASSES[config.pop("_class_name")]).parameters
    defaults = plain({key: parameter.default for key, parameter in parameters.items()})
    assert config.items() <= defaults.items()
    assert defaults.keys() - config.keys() <= {"rope_theta"}  # of our own: the releases know 10000 only


def test_the_configs_are_the_references(pytestconfig: pytest.Config):
    folder: Path = pytestconfig.getoption("--golden-dir") / "pyramid_flow"
    golden = [json.loads(file.read_text()) for file in sorted(folder.glob("full_size_keys_*.json"))]
    assert {entry["class_name"] for entry in golden} == set(CLASSES)
    for entry in golden:
        configs = [dict(config) for config in CONFIGS.values() if config["_class_name"] == entry["class_name"]]
        assert configs
        for config in configs:
            del config["_class_name"]
            assert plain(config).items() <= entry["config"].items()


def test_the_pipeline_overrules_only_what_diffusers_wrote():
    config = {"_class_name": "PyramidDiffusionMMDiT", "use_temporal_causal": False, "num_layers": 3}
    assert as_the_pipeline_runs_it(config) == config
    by_diffusers = as_the_pipeline_runs_it({**config, "_diffusers_version": "0.30.3"})
    assert by_diffusers["use_temporal_causal"] and by_diffusers["interp_condition_pos"]
    assert by_diffusers["num_layers"] == 3
    other = {"_class_name": "CausalVideoVAE", "_diffusers_version": "0.30.3"}
    assert as_the_pipeline_runs_it(other) == other
