"""Every private member of a library that we call or replace, with the form it must have.

Each is used in one function, because nothing public does the same. A library that renames one would not always raise (a
hook that is never called again is silent), so it is looked at here.
"""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.utils.tensorboard import SummaryWriter

ROOT = Path(__file__).resolve().parent.parent
OWN_FOLDERS = ("callbacks", "components", "datamodules", "lightning_modules")
CALLED = {
    "callbacks/ema.py": {"_foreach_lerp_"},
    "callbacks/graceful_stop.py": {"_is_training_done", "_should_accumulate", "_should_check_val_fx"},
    "callbacks/report/tensorboard.py": {"_get_file_writer"},
    "components/backbones/sharding.py": {"_non_persistent_buffers_set"},
    "components/backbones/wan/attention.py": {"_attention_backend"},
    "components/counting/live_memory.py": {"_cdata"},
    "components/counting/saved_activations.py": {"_cdata"},
    "components/codecs/audio/mmaudio_checkpoint.py": {"_weight_norm"},
    "components/optimization/fused.py": {"_step_supports_amp_scaling"},
    "lightning_modules/command_line/trainer.py": {
        "_first_loop_iter",
        "_has_run",
        "_logger_connector",
        "_should_check_val_fx",
    },
}
"""Members of other libraries' objects that a file reads or calls."""


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("_parse_ckpt_path", ["self"]),
        ("_run_subcommand", ["self", "subcommand"]),
        ("_prepare_subcommand_parser", ["self", "klass", "subcommand", "kwargs"]),
    ],
)
def test_hooks_of_the_command_line_are_still_called(hook: str, parameters: list[str]):
    assert list(inspect.signature(getattr(LightningCLI, hook)).parameters) == parameters
    assert f"self.{hook}(" in inspect.getsource(LightningCLI)


def test_the_loop_still_says_whether_it_accumulates():
    assert list(inspect.signature(_FitLoop._should_accumulate).parameters) == ["self"]


def test_strategies_still_keep_what_ours_sets():
    assert "self._data_parallel_size = " in inspect.getsource(ModelParallelStrategy)
    assert "self._data_parallel_size" in inspect.getsource(ModelParallelStrategy.setup_environment)
    assert "self._checkpoint_io" in inspect.getsource(Strategy)


def test_wans_attention_still_knows_its_backend():
    assert hasattr(WanAttnProcessor(), "_attention_backend")


def test_tensorboard_still_hands_out_its_file_writer(tmp_path: Path):
    with SummaryWriter(str(tmp_path)) as writer:
        assert hasattr(writer._get_file_writer(), "add_summary")


def test_torch_still_has_the_kernels_without_a_public_name():
    average = [torch.zeros(3)]
    torch._foreach_lerp_(average, [torch.ones(3)], 0.25)
    assert average[0].tolist() == [0.25] * 3
    direction = torch.randn(4, 3)
    weight = torch._weight_norm(direction, direction.norm(dim=1, keepdim=True), 0)
    torch.testing.assert_close(weight, direction)
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("derived", torch.zeros(1), persistent=False)
    assert module._non_persistent_buffers_set == {"derived"}


def test_fused_optimizers_still_say_that_they_unscale():
    """Read by GradScaler and by Lightning; ours says that they do not."""
    assert torch.optim.AdamW([torch.zeros(1)], fused=True)._step_supports_amp_scaling
    assert "_step_supports_amp_scaling" in inspect.getsource(torch.amp.GradScaler.step)
    assert "_step_supports_amp_scaling" in inspect.getsource(_optimizer_handles_unscaling)


def attributes(file: Path) -> list[ast.Attribute]:
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)]


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_exit"  # os._exit is documented


def test_no_other_file_leans_on_a_private_member():
    files = sorted(path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*.py"))
    ours = {node.attr for file in files for node in attributes(file) if is_own(node)}
    ours |= {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    found: dict[str, set[str]] = {}
    for file in files:
        used = {node.attr for node in attributes(file) if is_private(node.attr) and not is_own(node)} - ours
        if used:
            found[str(file.relative_to(ROOT))] = used
    assert found == CALLED
