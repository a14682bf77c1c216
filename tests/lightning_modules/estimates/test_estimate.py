"""``avsync estimate`` counts what is there, on the meta device and without any checkpoint."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.backbones.pyramid_flow.column import Column
from components.backbones.recomputation import LayerPolicy
from components.contracts import ClipBatch
from components.counting.flops import CountsSteps, StepCost
from components.counting.saved_activations import BlockBytes
from components.counting.step_shape import StepShape
from components.errors import InputError
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.command_line.extra_commands import run_extra
from lightning_modules.estimates import harmony, syncphony
from lightning_modules.estimates.checkpoints import checkpoint_storage
from lightning_modules.estimates.command import main
from lightning_modules.estimates.experiment import meta_experiment
from lightning_modules.estimates.memory import Activations, ExperimentMemory, Part, Sharing
from lightning_modules.estimates.scale import Run, deal
from lightning_modules.experiment import ModelAndDataCLI
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.syncphony.module import SyncphonyModule

QUICKSTARTS = ("configs/quickstart.yaml", "configs/harmony/quickstart.yaml")
FEW = ["--data.batch_size=4", "--callbacks=null"]


def table(text: str, first: str) -> dict[str, list[float]]:
    """Rows of the table whose head begins so; – and words are left out."""
    block = text[text.index(f"| {first}") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in block.splitlines()[2:]]
    numbers = {name: [cell.replace(",", "") for cell in cells] for name, *cells in rows}
    return {name: [float(cell) for cell in cells if re.fullmatch(r"[\d.e-]+", cell)] for name, cells in numbers.items()}


def clips_of(data: object, clips: int) -> ClipBatch:
    shape = data.clip  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    reference_s = getattr(data, "reference_s", None)
    reference = None if reference_s is None else torch.rand(clips, round(reference_s * shape.sample_rate)) - 0.5
    size = (clips, shape.num_frames, 3, shape.height, shape.width)
    return ClipBatch(
        ids=[f"clip{i}" for i in range(clips)],
        video=torch.randint(0, 256, size, generator=generator, dtype=torch.uint8),
        fps=shape.fps,
        audio=torch.rand(clips, shape.num_samples, generator=generator) - 0.5,
        sample_rate=shape.sample_rate,
        captions=["a bouncing ball"] * clips,
        video_ids=["recording"] * clips,
        transcripts=["ba to mi"] * clips,
        reference_audio=reference,
        reference_lengths=None if reference is None else torch.full((clips,), reference.shape[1]),
    )


@pytest.fixture(params=QUICKSTARTS)
def built(request: pytest.FixtureRequest):
    """A quickstart's module with its weights, and its data."""
    cli = ModelAndDataCLI(with_bases(["--config", request.param, *FEW]))
    cli.model.configure_model()
    for name in ("log", "log_dict"):  # there is no trainer to log to
        setattr(cli.model, name, lambda *_args, **_kwargs: None)
    return cli.model.train(), cli.datamodule


@pytest.mark.gate
def test_the_flops_of_a_step_are_those_that_really_run(built):
    """Counted on the meta device and in real steps, whose attention is made to show its products."""
    module, data = built
    batch = clips_of(data, 4)
    module.text_dropout = 0.0  # of Syncphony: columns are cut to their own texts
    assert isinstance(module, CountsSteps)
    counted = module.training_cost(batch)
    transformer, inputs = module.trained_transformer(), []
    hook = transformer.register_forward_pre_hook(lambda _, args, named: inputs.append((args, named)), with_kwargs=True)
    if isinstance(module, SyncphonyModule):
        # encoded beforehand, so that the step is the transformer's alone, the sound's keys and values included
        latents, features = module.codec.encode(batch.video / 127.5 - 1), module.audio_encoder(batch.audio, 16000)
        encoded = replace(batch, video_latents=latents, audio_features=features)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as real:
            module.training_step(encoded, 0).backward()
        ((columns, *_),) = (args for args, _ in inputs)
        counted = one_case(module, batch, columns, counted)
    else:
        module.training_step(batch, 0)
        ((_, given),) = inputs
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as real:
            torch.stack([out.square().mean() for out in transformer(**given)]).mean().backward()
        video = given["z_v"][0, 0].numel() // math.prod(transformer.video.patch_size)
        assert counted.tokens == 4 * (video + given["z_a"].shape[2] + given["z_r"].shape[2])
    hook.remove()
    # an encoder may give one token of sound more than fit into the clip
    exact = 2e-3 if isinstance(module, SyncphonyModule) else 1e-9
    assert real.get_total_flops() == pytest.approx(counted.flops, rel=exact)


def one_case(module: SyncphonyModule, batch: ClipBatch, columns: list[Column], mean: StepCost) -> StepCost:
    """What is counted of the prefix lengths that were drawn; the ``mean`` is over all that could have been."""
    text = module.text_encoder(batch.captions)
    shapes, shape = module.step_shapes(), StepShape.of(batch, module.codec.spatial_factor, 1, text, None)
    costs = {place: shapes.cost_of(shape, place) for place in shapes.places(shape)}
    assert mean.flops == pytest.approx(sum(cost.flops for cost in costs.values()) / len(costs), rel=0.1)

    def sizes(given: list[Column]) -> list[list[torch.Size]]:
        return [[clip.shape for clip in column.clips] for column in given]

    (drawn,) = [place for place in costs if sizes(shapes.columns(shape, place)) == sizes(columns)]
    assert costs[drawn].tokens == sum(clip[:, 0].numel() for column in columns for clip in column.clips) // 4
    return costs[drawn]


@pytest.mark.gate
def test_memory_by_part_is_that_of_a_real_step(built, tmp_path: Path):
    """Bytes of the tensors that a training of the quickstart really holds after a step of AdamW."""
    module, data = built
    config = QUICKSTARTS["Harmony" in type(module).__name__]
    file = tmp_path / "estimate.json"
    assert main(["--config", config, *FEW, "--gpus", "1", "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["gpus"]

    configured = module.configure_optimizers()
    optimizer = configured["optimizer"]
    kept: dict[int, torch.Tensor] = {}
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in owned:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module.training_step(clips_of(data, 4), 0)
    loss.backward()
    optimizer.step()
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    states = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    for name, tensors in (
        ("weights", list(module.parameters())),
        ("gradients", [parameter.grad for parameter in trained]),
        ("optimizer", states),
    ):
        assert row["memory"][name] == sum(tensor.nbytes for tensor in tensors), name
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    # a real step adds its loss, a CPU's attention its log-sums; Syncphony's batch is the costliest, this one is drawn
    assert activations_of(module, clips_of(data, 4)) == pytest.approx(activations, rel=0.3)


def activations_of(module: SyncphonyModule | HarmonyModule, batch: ClipBatch) -> int:
    """Counted with texts as long as the batch's, which are shorter than the estimate's."""
    text = module.text_encoder(batch.captions)
    if isinstance(module, SyncphonyModule):
        shape = StepShape.of(batch, module.codec.spatial_factor, 1, text, None)
        return syncphony.count_activations(module, shape, torch.float32).kept
    words = module.inputs.words(batch.transcripts, batch.ids)
    shape = StepShape.of(batch, module.video_codec.spatial_factor, module.audio_codec.latent_hop, text, words)
    return harmony.count_activations(module, shape, torch.float32).kept


def test_the_tables_say_what_the_json_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "estimate.json"
    options = ["--gpus", "1,3,4", "--mfu", "0.5", "--memory", "24", "--clips-per-step", "16", "--clips", "1000"]
    main(["--config", QUICKSTARTS[0], *FEW, *options, "--json", str(file)])
    text, found = capsys.readouterr().out, json.loads(file.read_text())
    one, three, four = found["gpus"]
    assert three == {"gpus": 3, "dealt": None} and re.search(r"^\| 3 +\| +– ", text, re.MULTILINE)
    assert one["dealt"] == {"batch": 4, "accumulate": 4, "clips": 16}
    assert four["dealt"] == {"batch": 4, "accumulate": 1, "clips": 16}
    assert one["fits"] == {"24": True}
    # ideal scaling at a stated MFU: four times faster, the same GPU-hours
    fast, slow = four["mfu"][0], one["mfu"][0]
    assert slow["step_s"] == pytest.approx(4 * fast["step_s"])
    assert slow["gpu_hours"] == pytest.approx(fast["gpu_hours"])
    flops = found["flops"]["transformer_per_clip"] + sum(found["flops"]["encoding_per_clip"].values())
    assert slow["step_s"] == pytest.approx(16 * flops / (0.5 * 989e12))
    assert one["network"] == {"all_gather": 0, "reduce_scatter": 0}
    trained = sum(part["trained"] for part in found["parameters"].values())
    assert four["network"]["reduce_scatter"] == pytest.approx(0.75 * 4 * trained)
    assert four["memory"]["gradients"] == trained  # four bytes over four GPUs
    assert table(text, "part   ")["total"][1] == pytest.approx(trained / 1e6, abs=0.05)
    assert found["clip_bytes"]["decoded"] == 49 * 3 * 32 * 32 + 4 * round(49 / 24 * 16000)


SHARES = ExperimentMemory(
    {"all": Part(100, 80, 400)}, {"codec": Part(10, 0, 20)}, {}, 10, True, Activations(50, 90, ""), 60, "", gathered=200
)


def test_gradients_are_whole_while_batches_are_accumulated():
    assert SHARES.per_gpu(Sharing(4), averaged=True) == {
        "weights": 120,
        "gradients": 80,
        "optimizer": 160,
        "EMA": 80,
        "copies": 60,
        "activations": 50,
        "encoding": 60,
        "stepping": 80,
        "peak": 120 + 80 + 160 + 80 + 60 + 80,
    }
    assert SHARES.per_gpu(Sharing(4, whole_gradients=True), averaged=False)["gradients"] == 320
    replicated = SHARES.per_gpu(Sharing(4, sharded=False), averaged=False)
    assert (replicated["weights"], replicated["optimizer"], replicated["copies"]) == (420, 640, 160)


def test_activations_by_policy():
    """Beside what is kept, the largest block that is computed again is there while its backward pass runs."""
    blocks = [BlockBytes(kept=100, inputs=10, attention=20), BlockBytes(kept=60, inputs=10, attention=5)]

    def kept(*policies: LayerPolicy) -> int:
        return Activations.of(200, blocks, policies, "").kept

    assert kept(False, False) == 200
    assert kept(True, True) == 40 + 20 + 100
    assert kept(False, True) == 200  # no more than where all is kept
    assert kept("selective", "selective") == 40 + 20 + 25 + 100
    assert Activations.of(200, blocks, [True, True], "").without_checkpoints == 200


def test_policies_order_what_an_experiment_keeps():
    experiment = meta_experiment(["--config", QUICKSTARTS[0], *FEW])
    module = experiment.module
    assert isinstance(module, SyncphonyModule)
    module.configure_model()
    kept = {}
    for policy in ("none", "selective", 2, "full"):
        module.dit.checkpoint_activations = policy
        counted = syncphony.count_activations(module, syncphony.shape_of(experiment.data), torch.float32)
        kept[policy] = counted.kept
        assert counted.without_checkpoints == kept["none"]
    assert kept["full"] < kept["selective"] < kept["none"]
    assert kept["full"] < kept[2] <= kept["none"]


def test_clips_are_dealt_out_evenly_or_not_at_all():
    fixed = Run(1, 3, 1536, True, False, False, 2)
    dealt = [deal(fixed, 16, gpus) for gpus in (8, 64, 512, 1000)]
    assert [one and (one.batch, one.accumulate) for one in dealt] == [(16, 12), (12, 2), (3, 1), None]
    free = deal(Run(1, 3, None, True, False, False, 2), 16, 8)
    assert free is not None and (free.batch, free.accumulate, free.clips) == (16, 3, 384)


def test_storage_follows_the_callbacks_that_write_checkpoints():
    plain = checkpoint_storage(SHARES, {"ModelCheckpoint": {"every_n_train_steps": 10, "save_last": "link"}}, 95)
    assert (plain.size, plain.kept, plain.written) == (80 * 12, 1, 9)
    assert plain.most_bytes == 2 * plain.size and plain.written_bytes == 9 * plain.size
    callbacks = {"EMA": {}, "ModelCheckpoint": {"every_n_train_steps": 10, "save_top_k": -1, "save_last": True}}
    everything = checkpoint_storage(SHARES, {**callbacks, "SlimCheckpoint": {}}, 100)
    assert (everything.size, everything.kept, everything.written, everything.slim) == (80 * 16, 11, 20, 80 * 4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--gpus", "1,x"], "'1,x' is no list of numbers from 1 on"),
        (["--mfu", "40"], "'40' is no list of shares from 0 to 1"),
        (["--peak-tflops", "0"], "'0' is not a number above 0"),
        (["--json", "/no/such/folder/file.json", "--config", QUICKSTARTS[0]], "give a file in a folder that exists"),
        ([], "nothing says which experiment"),
        (["--config", "configs/nothing.yaml"], "does not exist"),
        (["--config", QUICKSTARTS[0], "--trainer.max_steps", "-1"], "give --steps"),
        (["--config", QUICKSTARTS[0], "--gpus", "5", "--clips-per-step", "64"], "cannot be dealt out evenly"),
        (["--config", "configs/harmony/syncnet.yaml"], "no Syncphony or Harmony experiment"),
        (["--config", QUICKSTARTS[0], "--config", "configs/trainer/context.yaml"], "context_parallel_size is 2, but"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]):
    assert run_extra(["estimate", *options]) == 2
    assert sentence in capsys.readouterr().err


FULL = {
    "syncphony/avsync15": {"transformer, trained": 1126.9, "video codec": 335.4, "audio encoder": 315.4},
    "harmony/stage1_audio": {"audio tower": 5012.7, "audio codec": 283.9},
    "harmony/stage3_joint": {"video tower": 4999.8, "audio tower": 5012.7, "interaction": 1121.7},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_experiments_are_counted_without_their_checkpoints(name: str, capsys: pytest.CaptureFixture[str]):
    main(["--config", f"configs/{name}.yaml", "--config", "configs/trainer/fsdp.yaml", "--gpus", "1,8"])
    text = capsys.readouterr().out
    parts, memory = table(text, "part   "), table(text, "GPUs | weights")
    assert {part: parts[part][0] for part in FULL[name]} == FULL[name]
    for held in memory.values():
        assert sum(held[:5]) + max(held[5:8]) == pytest.approx(held[8], abs=0.06)
    kept_all = float(re.search(r"all kept they are (\S+) GiB", text)[1])  # type: ignore[index]
    assert kept_all > 2 * memory["1"][5]
    assert memory["8"][1] == memory["1"][1] and memory["8"][2] == pytest.approx(memory["1"][2] / 8, abs=0.01)


def test_an_error_is_raised_before_anything_is_counted():
    with pytest.raises(InputError, match="cannot be dealt out"):
        main(["--config", QUICKSTARTS[0], "--gpus", "7", "--clips-per-step", "64"])
