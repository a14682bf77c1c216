"""Both systems on a pretended card: no devices mixed, nothing waited for in a step (see `tests.pretended_card`)."""

import json
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from benchmarks.gpu import model_checks, part_checks
from benchmarks.gpu.rows import Notes, Place
from components.schedules.flow_schedule import FlowSchedule, Solver
from lightning_modules.command_line.cli import main
from tests.lightning_modules import tiny_module as syncphony
from tests.lightning_modules.harmony import tiny_harmony_module as harmony
from tests.pretended_card import CARD, Accelerator, OnCard, pretended_card

ROOT = Path(__file__).parents[1]


def test_values_and_gradients_are_those_of_the_cpu_and_devices_do_not_mix():
    def gradient(device: torch.device) -> torch.Tensor:
        made = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, 4, 8, generator=made).to(device).requires_grad_()
        turned = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.tensor(1j, device=device))
        attended = torch.nn.functional.scaled_dot_product_attention(turned.flatten(-2), x, x)
        (attended[:, :2].double().square().sum() + attended.cumsum(0).mean()).backward()
        assert x.grad is not None and x.grad.device == device
        return x.grad.cpu()

    expected = gradient(torch.device("cpu"))
    with pretended_card() as card:
        assert torch.equal(gradient(CARD), expected)
        here, there = torch.ones(3), torch.ones(3, device=CARD)
        assert isinstance(there[torch.tensor([0, 2])] * torch.tensor(2.0), OnCard)
        for mixed in (lambda: here + there, lambda: torch.cat([here, there]), lambda: here[there.long()]):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
            torch.randn(2, device=CARD, generator=torch.Generator())
        assert torch.randn(2, device=CARD, generator=torch.Generator(CARD)).device == CARD
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()
        card.waits.clear()
        there.add_(1).sum()
        there.copy_(here.to(CARD, non_blocking=True), non_blocking=True).copy_(here + 1, non_blocking=True)
        assert card.waits == []
        assert float(there.sum()) == 6 and there[there > 1].tolist() == [2, 2, 2] and len(card.waits) == 3
        for copied in (lambda: here.to(CARD), lambda: there.copy_(here), lambda: there[torch.tensor([0, 2])]):
            card.waits.clear()
            copied()
            assert len(card.waits) == 1
        card.waits.clear()
        torch.tensor([1.0, 2.0], device=CARD)
        assert len(card.waits) == 1


@pytest.mark.parametrize("system", [syncphony, harmony], ids=["syncphony", "harmony"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_of_training_and_of_sampling_waits_for_nothing(system, precision):
    with pretended_card() as card:
        module = system.tiny_module().to(CARD)
        module.log = module.log_dict = lambda *_, **__: None
        batch = system.clips(4).to(CARD)
        for step in range(2):  # constants are copied in the first
            card.waits.clear()
            with torch.autocast("cuda", precision, enabled=precision != torch.float32):
                loss = module.training_step(batch, step)
            loss.backward()
            assert all(isinstance(p.grad, OnCard) for p in module.parameters() if p.grad is not None)
            module.configure_optimizers().step()
        assert card.waits == []
        module.eval()
        encoded = module.encode_conditions(batch)
        card.waits.clear()
        module.sample(encoded) if system is syncphony else module.sample(encoded, batch)
        assert [wait for wait in card.waits if "istft" not in wait and "codecs/audio" not in wait] == []


@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_a_solver_waits_for_nothing_and_walks_as_on_the_cpu(solver: Solver):
    velocities = torch.randn(5, 1, 2, 3, generator=torch.Generator().manual_seed(0))

    def walked(device: torch.device) -> torch.Tensor:
        way, x = FlowSchedule(solver).start(len(velocities)), torch.ones(1, 2, 3).to(device)
        moved = velocities.to(device)
        if device == CARD:
            card.waits.clear()
        for index, velocity in enumerate(moved):
            x = way.step(index, velocity, x)
        return x

    with pretended_card() as card:
        there = walked(CARD)
        assert card.waits == []
        assert torch.equal(there.cpu(), walked(torch.device("cpu")))


@pytest.mark.filterwarnings("ignore")
def test_what_a_training_of_harmony_logs_waits_for_nothing(tmp_path: Path):
    on_card = {"accelerator": Accelerator(), "devices": 1, "strategy": SingleDeviceStrategy(CARD)}
    with pretended_card() as card:
        harmony.fit(harmony.tiny_module(), tmp_path, max_steps=3, log_every_n_steps=2, **on_card)
    assert card.waits and [wait for wait in card.waits if "harmony/module.py" in wait] == []


CHECKS = [
    *("check_harmony", "check_syncphony_sampling", "check_harmony_sampling"),
    *("check_causal_vae", "check_wan_vae", "check_syncnet", "check_cyclesync"),
    pytest.param("check_mmaudio", marks=pytest.mark.slow),
    pytest.param("check_checkpointing", marks=pytest.mark.slow),
    pytest.param("check_syncphony", marks=pytest.mark.slow),  # as its sampling and its training step
]


@pytest.mark.gate
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_checks_for_a_card_hold(name, tmp_path):
    check = getattr(model_checks, name, None) or getattr(part_checks, name)
    found: list[dict[str, object]] = []
    notes = Notes(lambda _, entry: found.append(entry))
    with pretended_card():
        check(*(["miniflux"] if name == "check_syncphony" else []), Place(str(CARD), tmp_path), notes)
    assert found and notes.failures == []


@pytest.mark.slow  # a minute each: the whole quickstart, judges, report and checkpoints included
@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("configs/quickstart.yaml", ["--data.num_test=4", "--model.sampler.init_args.video_steps=[1,1,1]"]),
        ("configs/harmony/quickstart.yaml", ["--data.num_test=24", "--model.sampler.init_args.num_steps=2"]),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_quickstart_runs_on_it(config, options, precision, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avsync"])
    small = ["--data.num_train=16", "--data.batch_size=4", "--data.val_batch_size=4"]
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", f"--trainer.precision={precision}"]
    card = [
        '--trainer.accelerator={"class_path": "tests.pretended_card.Accelerator"}',
        "--trainer.strategy=lightning.pytorch.strategies.SingleDeviceStrategy",
        f"--trainer.strategy.init_args.device={CARD}",
        "--trainer.devices=1",
    ]
    with pretended_card():
        assert main(["fit", "--config", str(ROOT / config), *small, *short, *options, *card]) == 0
    (results,) = Path("runs").glob("*/version_0/results.json")
    assert "cyclesync" in json.loads(results.read_text())["metrics"]
