"""Named tensors become a module's: spelling, the check of everything before anything is loaded, no copies."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.errors import InputError
from components.weights.file import Weights, open_weights_file
from components.weights.fit import assign_weights, contradicting, copy_weights, num_numbered, respelled


class Allocated(TorchDispatchMode):
    """Bytes of all memory that operations inside it have taken, ever."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and not t.is_meta and t.untyped_storage()._cdata not in known:
                self.bytes += t.untyped_storage().nbytes()
        return out


class Net(nn.Module):
    """Two layers, a stored and an unstored buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 8)
        self.register_buffer("steps", torch.zeros(3, dtype=torch.long))
        self.register_buffer("table", torch.arange(5.0, device="cpu") ** 2, persistent=False)


def net_on_meta() -> Net:
    with torch.device("meta"):
        return Net()


def stored(tmp_path: Path, kind: str = "safetensors", dtype: torch.dtype = torch.float32) -> tuple[Net, Path]:
    torch.manual_seed(0)
    net = Net().to(dtype)
    net.steps.copy_(torch.arange(3))
    file = tmp_path / f"model.{kind}"
    save_file(net.state_dict(), file) if kind == "safetensors" else torch.save(net.state_dict(), file)
    return net, file


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_nothing_is_copied_where_the_dtype_is_right(tmp_path: Path, kind: str):
    source, file = stored(tmp_path, kind)
    weights, net = open_weights_file(file), net_on_meta()
    places = {key: tensor.data_ptr() for key, tensor in weights.tensors.items()}
    with Allocated() as allocated:
        assign_weights(net, weights, torch.float32)
    assert allocated.bytes == 0
    assert not weights.tensors
    assert {key: tensor.data_ptr() for key, tensor in net.state_dict().items()} == places
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in source.state_dict().items())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_conversion_takes_the_memory_of_its_result_and_no_more(tmp_path: Path, kind: str):
    source, file = stored(tmp_path, kind)
    weights, net = open_weights_file(file), net_on_meta()
    with Allocated() as allocated:
        assign_weights(net, weights, torch.bfloat16)
    assert allocated.bytes == sum(p.nbytes for p in net.parameters()) == sum(p.nbytes for p in source.parameters()) / 2
    assert torch.equal(net.first.weight, source.first.weight.bfloat16())
    assert net.steps.dtype == torch.long


def test_the_meter_would_see_a_second_copy(tmp_path: Path):
    _, file = stored(tmp_path)
    weights = open_weights_file(file)
    with Allocated() as allocated:
        _ = {key: tensor.clone() for key, tensor in weights.tensors.items()}
    assert allocated.bytes == sum(tensor.nbytes for tensor in weights.tensors.values())


def test_without_a_dtype_the_files_own_is_kept(tmp_path: Path):
    _, file = stored(tmp_path, dtype=torch.bfloat16)
    net = net_on_meta()
    assign_weights(net, open_weights_file(file))
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}


def test_what_no_file_holds_is_right_after_a_build_on_meta(tmp_path: Path):
    net = net_on_meta()
    assign_weights(net, open_weights_file(stored(tmp_path)[1]))
    assert net.table.tolist() == [0.0, 1.0, 4.0, 9.0, 16.0]


def test_what_no_file_holds_must_not_be_left_without_a_value(tmp_path: Path):
    net = net_on_meta()
    net.register_buffer("table", torch.arange(5.0, device="meta"), persistent=False)
    with pytest.raises(RuntimeError, match=r"Net must compute on device='cpu'.*'table'"):
        assign_weights(net, open_weights_file(stored(tmp_path)[1]))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_training_leaves_the_file_alone(tmp_path: Path, kind: str, make: type[torch.optim.Optimizer]):
    source, file = stored(tmp_path, kind)
    before, net = file.read_bytes(), net_on_meta()
    assign_weights(net, open_weights_file(file))
    optimizer = make(net.parameters(), lr=0.1)
    net.second(net.first(torch.ones(2, 32))).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(p, source.get_parameter(name)) for name, p in net.named_parameters())
    assert file.read_bytes() == before


def test_frozen_stays_frozen(tmp_path: Path):
    net = net_on_meta()
    net.first.requires_grad_(False)
    assign_weights(net, open_weights_file(stored(tmp_path)[1]))
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]


def test_everything_wrong_is_one_error_and_nothing_is_loaded(tmp_path: Path):
    _, file = stored(tmp_path)
    weights, net = open_weights_file(file), net_on_meta()
    weights.tensors["first.wait"] = weights.tensors.pop("first.weight")
    weights.tensors["second.bias"] = torch.zeros(9)
    with pytest.raises(InputError) as caught:
        assign_weights(net, weights, contradictions=lambda module, shapes: [f"width is {shapes['second.bias'][0]}"])
    message = str(caught.value)
    assert "does not fit this Net: width is 9; 1 missing: first.weight (nearest: first.wait)" in message
    assert "1 unexpected: first.wait" in message and "second.bias (file [9], model [8])" in message
    assert all(p.is_meta for p in net.parameters())


def test_copying_into_a_module_keeps_its_tensors(tmp_path: Path):
    source, file = stored(tmp_path, dtype=torch.bfloat16)
    net = Net()
    places = [p.data_ptr() for p in net.parameters()]
    copy_weights(net, open_weights_file(file))
    assert [p.data_ptr() for p in net.parameters()] == places
    assert torch.equal(net.first.weight, source.first.weight.float())


# --- spelling --------------------------------------------------------------------------------------------------------

OURS = ("blocks.0.to_q.weight", "blocks.0.to_k.weight", "query.weight")
RENAMES = ((".query.", ".to_q."), (".key.", ".to_k."))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "vae.", "dit.", "module._orig_mod.", "module.module."])
def test_prefixes_that_every_key_has_are_taken_off(prefix: str):
    assert list(respelled([prefix + key for key in OURS], OURS).values()) == list(OURS)


def test_a_prefix_that_is_the_modules_own_stays():
    keys = ["model.a", "model.b"]
    assert list(respelled(keys, keys).values()) == keys
    assert list(respelled([f"module.{key}" for key in keys], keys).values()) == keys
    assert list(respelled(["model.a", "b"], ["a", "b"]).values()) == ["model.a", "b"]


def test_other_spellings_are_renamed_where_that_helps():
    found = ["blocks.0.query.weight", "blocks.0.key.weight", "query.weight", "blocks.1.query.weight"]
    assert list(respelled(found, OURS, RENAMES).values()) == [*OURS, "blocks.1.query.weight"]


def test_two_keys_never_become_one():
    found = ["blocks.0.query.weight", "blocks.0.to_q.weight"]
    assert list(respelled(found, OURS, RENAMES).values()) == found


def test_values_follow_their_keys(tmp_path: Path):
    source, _ = stored(tmp_path)
    found = {f"module.{k.replace('first', 'one')}": v for k, v in source.state_dict().items()}
    net = net_on_meta()
    assign_weights(net, Weights(dict(found), (), tmp_path), renames=(("one.", "first."),))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in source.state_dict().items())


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_compared_by_value():
    config = {"depth": 3, "widths": (1, 2), "flag": True}
    assert contradicting(config, {"depth": 3, "widths": [1, 2], "unknown": 7}) == []
    assert contradicting(config, {"depth": 4, "widths": [1, 3]}) == [
        "depth is 3 in config.json but 4 in the weights",
        "widths is (1, 2) in config.json but [1, 3] in the weights",
    ]


def test_numbered_modules():
    shapes = {"blocks.0.a": (), "blocks.10.b": (), "blocks.x": (), "other_blocks.30.a": ()}
    assert (num_numbered(shapes, "blocks"), num_numbered(shapes, "none")) == (11, 0)
