"""Whether both systems compute on a card what they compute on a CPU: outputs, losses, gradients, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.rows import Notes, Place, relative_difference
from benchmarks.gpu.small_models import (
    CLOCK,
    FPS,
    NUM_SOUND,
    SIDES,
    SOUND_CHANNELS,
    TEMPORAL_FACTOR,
    VIDEO_SHAPE,
    MovedNoise,
    PyramidDrawnOnCPU,
    TasksDrawnOnCPU,
    drawn,
    exact_products,
    harmony_inputs,
    moved,
    small_harmony,
    small_syncphony,
    small_vae,
    syncphony_inputs,
)
from components.backbones.pyramid_flow.checkpoint import Variant
from components.guidance.sync_cfg import SyncCFG
from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.pyramid_objective import PyramidObjective
from components.samplers.joint_sampler import JointConditions, JointSampler, ModalityText
from components.samplers.pyramid_sampler import Conditions, PyramidSampler

# The CPU's attention runs in float32 whatever it is given, so float64 agrees no better than that; about ten times what
# a CPU's own float32 and bfloat16 differ from its float64.
DOUBLE, SINGLE, HALF = 2e-5, 5e-5, 6e-2
SAME_KERNELS = {False: 2e-5, True: 1e-2}
"""The same computation twice on one device: sums in another order where a kernel adds atomically (under autocast in
bfloat16), nothing else."""


@dataclass(frozen=True)
class Pass:
    """What a training step gives: outputs, loss, gradients by name."""

    outputs: list[Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, step: Callable[[], Tensor]) -> Pass:
        """Runs ``step``, which calls the model once, and its backward pass."""
        outputs: list[Tensor] = []
        hook = model.register_forward_hook(lambda module, given, made: outputs.extend(made))
        model.zero_grad(set_to_none=True)
        loss = step()
        torch.autograd.backward(loss)
        hook.remove()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return cls([output.detach() for output in outputs], loss.detach(), gradients)

    def compare(self, wanted: Pass, name: str, most: float, notes: Notes) -> None:
        """Notes the differences of all three; gradients as one vector, and the parameter that is furthest off."""
        notes.compare(f"{name} outputs", relative_difference(self.outputs, wanted.outputs), most)
        notes.compare(f"{name} loss", relative_difference([self.loss], [wanted.loss]), most)
        notes.require(f"{name} gradients of the same parameters", self.gradients.keys() == wanted.gradients.keys())
        pairs = {key: (self.gradients[key], wanted.gradients[key]) for key in self.gradients.keys() & wanted.gradients}
        total = relative_difference([a for a, _ in pairs.values()], [b for _, b in pairs.values()])
        notes.compare(f"{name} gradients", total, 2 * most)
        norms = {key: float(b.double().norm()) for key, (_, b) in pairs.items()}
        least = 1e-3 * sum(norm**2 for norm in norms.values()) ** 0.5  # smaller ones are rounding themselves
        single = {key: relative_difference([a], [b]) for key, (a, b) in pairs.items() if norms[key] > least}
        worst = max(single, key=single.__getitem__)
        notes.value(**{f"{name}_worst_parameter": worst, f"{name}_worst_gradient": single[worst]})


def compare_precisions(run: Callable[[str, torch.dtype, bool], Pass], place: Place, notes: Notes) -> None:
    """A training step on the device in three precisions against float64 on the CPU.

    Args:
        run: device, precision of weights and inputs, whether autocast runs products in bfloat16.
        place: the device.
        notes: takes the differences.
    """
    with exact_products():
        wanted = run("cpu", torch.float64, False)
        notes.value(parameters_with_gradients=len(wanted.gradients))
        run(place.device, torch.float64, False).compare(wanted, "float64", DOUBLE, notes)
        run(place.device, torch.float32, False).compare(wanted, "float32", SINGLE, notes)
    run(place.device, torch.float32, True).compare(wanted, "bfloat16", HALF, notes)


def autocast(device: str, on: bool) -> Any:
    """Products in bfloat16, or nothing."""
    return torch.autocast(device.split(":")[0], torch.bfloat16) if on else nullcontext()


def syncphony_pass(variant: Variant, device: str, dtype: torch.dtype, half: bool, **settings: Any) -> Pass:
    """Columns of the pyramid, transformer with sound, motion-aware loss, backward pass."""
    dit = small_syncphony(variant, **settings).to(device, dtype)
    given = moved(syncphony_inputs(), device, dtype)
    objective = PyramidObjective(PyramidDrawnOnCPU(), MotionAwareLoss(1.0))
    codec = small_vae().to(device)

    def step() -> Tensor:
        generator = torch.Generator().manual_seed(5)
        with autocast(device, half):
            logs = objective(dit, codec, given.latents, given.text, given.sound, FPS, (4, 4, 3), generator)
        return logs["loss"]

    return Pass.of(dit, step)


def check_syncphony(variant: Variant, place: Place, notes: Notes) -> None:
    """Forward, loss and gradients."""
    compare_precisions(partial(syncphony_pass, variant), place, notes)


def harmony_pass(device: str, dtype: torch.dtype, half: bool, **settings: Any) -> Pass:
    """Rows of all three tasks, both towers coupled, their errors, backward pass."""
    model = small_harmony(**settings).to(device, dtype)
    tasks = TasksDrawnOnCPU("all")
    clips = 2
    video, sound = (
        moved(drawn(clips, *shape, seed=seed), device, dtype)
        for shape, seed in ((VIDEO_SHAPE, 91), ((SOUND_CHANNELS, NUM_SOUND), 92))
    )
    rows = tasks.rows(video, sound, tasks.draw(video, sound, torch.Generator().manual_seed(6)))
    assert rows.video is not None
    assert rows.audio is not None
    given = moved(harmony_inputs(len(rows.tasks)), device, dtype)
    given |= {"t_v": rows.video.timesteps, "t_a": rows.audio.timesteps, "first_frame": rows.first_frame}
    noisy_video, noisy_sound = rows.video.latents, rows.audio.latents

    def step() -> Tensor:
        with autocast(device, half):
            outputs = model(noisy_video, noisy_sound, clock=CLOCK, **given)
        return tasks.loss(rows, *outputs)[0]

    return Pass.of(model, step)


def check_harmony(place: Place, notes: Notes) -> None:
    """Forward, loss and gradients."""
    compare_precisions(harmony_pass, place, notes)


def check_checkpointing(place: Place, notes: Notes) -> None:
    """Activations kept and computed again give the same gradients, in float32 and under autocast."""
    passes: dict[str, Callable[..., Pass]] = {
        "miniflux": partial(syncphony_pass, "miniflux"),
        "sd3": partial(syncphony_pass, "sd3"),
        "harmony": harmony_pass,
    }
    with exact_products():
        for name, run in passes.items():
            for half in (False, True):
                kept, again = (
                    run(place.device, torch.float32, half, checkpoint_activations=on) for on in (False, True)
                )
                label = f"{name} {'bfloat16' if half else 'float32'}"
                difference = relative_difference(again.gradients.values(), kept.gradients.values())
                notes.compare(label, difference, SAME_KERNELS[half])


def sampled_video(variant: Variant, device: str, half: bool) -> list[Tensor]:
    """Latents at the end of every stage, guided by text and sound."""
    dit = small_syncphony(variant).to(device).eval()
    given = moved(syncphony_inputs(clips=2), device)
    sampler, latents = PyramidSampler(video_steps=(2, 1, 1), video_text_scale=4.0, sync_scale=2.0), 3
    stages: list[Tensor] = []
    with torch.no_grad(), autocast(device, half):
        audio = dit.encode_audio(given.sound, latents, FPS, TEMPORAL_FACTOR)
        sampler.sample(
            dit,
            Conditions(given.text, given.negative, audio),
            (2, 16, latents, *SIDES),
            MovedNoise(2, device),
            image_latent=given.latents[:, :, :1],
            on_stage=stages,
        )
    return stages


def check_syncphony_sampling(place: Place, notes: Notes) -> None:
    """Guided sampling, float32 against the CPU; under autocast the first stage, before differences add up."""
    variants: Sequence[Variant] = ("miniflux", "sd3")
    for variant in variants:
        with exact_products():
            wanted, got = (sampled_video(variant, device, False) for device in ("cpu", place.device))
        notes.compare(f"{variant} float32, all stages", relative_difference(got, wanted), 10 * SINGLE)
        half = sampled_video(variant, place.device, True)
        notes.compare(f"{variant} bfloat16, first stage", relative_difference(half[:1], wanted[:1]), 3 * HALF)


def sampled_jointly(device: str, half: bool, steps: int) -> list[Tensor]:
    """Video and sound guided by text and by SyncCFG."""
    model = small_harmony().to(device).eval()
    given, other = (moved(harmony_inputs(rows=2), device) for _ in range(2))
    clean = moved([drawn(2, *VIDEO_SHAPE, seed=101), drawn(SOUND_CHANNELS, NUM_SOUND, seed=102)], device)
    noise = [drawn(2, *VIDEO_SHAPE, seed=103), drawn(2, SOUND_CHANNELS, NUM_SOUND, seed=104)]
    conditions = JointConditions(
        video_text=ModalityText(given["text_v"], negative=other["text_a"]),
        audio_text=ModalityText(given["text_a"], given["transcript"], negative=other["text_v"]),
        image=clean[0][:, :, :1],
        reference=given["z_r"],
        reference_lengths=given["ref_len"],
        silence=clean[1],
        still=clean[0],
        clock=CLOCK,
    )
    video_noise, audio_noise = moved(noise, device)
    sampler = JointSampler(steps, guidance=SyncCFG("text+sync"))
    with torch.no_grad(), autocast(device, half):
        made = sampler.sample(model, conditions, video_noise=video_noise, audio_noise=audio_noise)
    return [latents for latents in made if latents is not None]


def check_harmony_sampling(place: Place, notes: Notes) -> None:
    """Guided joint sampling with UniPC, float32 against the CPU; under autocast a single step."""
    with exact_products():
        wanted, got = (sampled_jointly(device, False, 4) for device in ("cpu", place.device))
        first = sampled_jointly("cpu", False, 1)
    notes.compare("float32", relative_difference(got, wanted), 10 * SINGLE)
    notes.require("video and sound", len(got) == 2)
    notes.compare("bfloat16, one step", relative_difference(sampled_jointly(place.device, True, 1), first), 3 * HALF)


def check_attention_backends(place: Place, notes: Notes) -> None:
    """Every backend of diffusers that Harmony's ``attention_backend`` can name and that is installed."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    with exact_products():
        wanted = _velocities(place.device, None)
    missing: dict[str, str] = {}
    for backend in [member.value for member in AttentionBackendName]:
        try:
            got = _velocities(place.device, backend)
        except Exception as error:  # each library has its own way of saying that it is not there
            place.wait()  # a broken card would say so here
            missing[backend] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        notes.compare(backend, relative_difference(got, wanted), HALF)
    notes.value(num_not_on_this_machine=len(missing), not_on_this_machine=missing)
    for backend in ("native", "_native_math"):
        notes.require(f"{backend} is there", backend not in missing)


def _velocities(device: str, backend: str | None) -> list[Tensor]:
    rows = 2
    model = small_harmony(attention_backend=backend).to(device, torch.bfloat16)
    given = moved(harmony_inputs(rows), device, torch.bfloat16)
    # no padded reference: a mask is not among what every backend takes
    given |= {"ref_len": None, "t_v": torch.full((rows,), 500.0, device=device)}
    given["t_a"] = given["t_v"]
    video, sound = drawn(rows, *VIDEO_SHAPE, seed=111), drawn(rows, SOUND_CHANNELS, NUM_SOUND, seed=112)
    given["transcript"] = None
    with torch.no_grad():
        made = model(moved(video, device, torch.bfloat16), moved(sound, device, torch.bfloat16), clock=CLOCK, **given)
    return [velocity for velocity in made if velocity is not None]
