"""The whole estimate of an experiment: what is counted, laid out over numbers of GPUs, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from components.errors import InputError
from lightning_modules.estimates.checkpoints import CheckpointStorage, checkpoint_storage
from lightning_modules.estimates.counts import Counts
from lightning_modules.estimates.experiment import MetaExperiment
from lightning_modules.estimates.harmony import count_harmony
from lightning_modules.estimates.memory import BFLOAT16, FLOAT32
from lightning_modules.estimates.scale import Run, deal, memory_per_gpu, step_s, traffic
from lightning_modules.estimates.syncphony import count_syncphony
from lightning_modules.syncphony.module import SyncphonyModule

GIB = 2**30
RESERVED = 0.1
"""Share of a GPU that is left to CUDA's context, buffers of the communication and the allocator's slack."""


@dataclass(frozen=True)
class Question:
    """What is asked about an experiment.

    Attributes:
        gpus: numbers of GPUs.
        memory_gb: sizes of their memory.
        mfu: shares of the peak rate.
        peak_tflops: peak rate of one GPU, dense products in the precision that is computed in.
        steps: optimizer steps; None for ``trainer.max_steps``.
        clips_per_step: clips of all GPUs that make a step; None for what the configuration makes of each number.
        clips: in the data set; None where storage is not asked about.
        video_mbit: bit rate of the recordings, Mbit/s, for their storage.
    """

    gpus: Sequence[int]
    memory_gb: Sequence[float]
    mfu: Sequence[float]
    peak_tflops: float
    steps: int | None = None
    clips_per_step: int | None = None
    clips: int | None = None
    video_mbit: float = 5.0


@dataclass(frozen=True)
class Estimate:
    """The answer.

    Attributes:
        question: what was asked.
        counts: of one batch.
        run: how long and how.
        checkpoints: of the whole run.
        rows: one for each number of GPUs (`_row`).
    """

    question: Question
    counts: Counts
    run: Run
    checkpoints: CheckpointStorage
    rows: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Everything, in bytes, FLOPs, seconds and hours."""
        counts, checkpoints = self.counts, self.checkpoints
        memory = counts.memory
        parts = memory.sharded | memory.replicated | memory.freed
        return {
            "question": asdict(self.question),
            "run": asdict(self.run),
            "parameters": {name: asdict(part) for name, part in parts.items()},
            "activations": asdict(memory.activations),
            "flops": {
                "transformer_per_clip": counts.transformer_flops,
                "encoding_per_clip": dict(counts.encoding.flops),
                "tokens_per_clip": counts.cost.tokens / counts.shape.clips,
            },
            "checkpoints": {
                "bytes": checkpoints.size,
                "kept": checkpoints.kept,
                "written": checkpoints.written,
                "kept_bytes": checkpoints.kept_bytes,
                "most_bytes": checkpoints.most_bytes,
                "written_bytes": checkpoints.written_bytes,
            },
            "clip_bytes": self.clip_bytes(),
            "gpus": self.rows,
        }

    def clip_bytes(self) -> dict[str, float]:
        """Bytes of one clip as it is stored: recorded, encoded (by part and in all), and decoded in memory."""
        shape, kept = self.counts.shape, self.counts.encoding.kept_bytes
        pictures = shape.num_frames * 3 * shape.height * shape.width if "video latents" in kept else 0
        references = shape.reference_samples or 0
        megabits = (self.question.video_mbit if pictures else 0.0) + _SOUND_MBIT
        return {
            "recorded": megabits * 1e6 / 8 * shape.duration_s,
            "decoded": float(pictures + (shape.num_samples + references) * FLOAT32),
            "encoded": float(sum(kept.values())),
            **{f"encoded, {name}": float(size) for name, size in kept.items()},
        }


_SOUND_MBIT = 0.128
"""AAC as it is mostly stored."""


def estimate(experiment: MetaExperiment, question: Question) -> Estimate:
    """Counts an experiment and lays it out.

    Raises:
        InputError: if nothing says how long the run is, or a step's clips cannot be dealt out over any number of GPUs.
    """
    run = _run(experiment, question)
    dealt = [deal(run, experiment.data.batch_size, gpus) for gpus in question.gpus]
    if not any(dealt):
        raise InputError(
            f"--clips-per-step is {question.clips_per_step}, which cannot be dealt out evenly over any of "
            f"--gpus {','.join(map(str, question.gpus))}; give a multiple of one of them"
        )
    module, data = experiment.module, experiment.data
    dtype = torch.bfloat16 if run.compute_bytes == BFLOAT16 else torch.float32
    if isinstance(module, SyncphonyModule):
        counts = count_syncphony(module, data, dtype)
    else:
        counts = count_harmony(module, data, dtype)
    found = Estimate(question, counts, run, checkpoint_storage(counts.memory, experiment.callbacks, run.steps), [])
    found.rows.extend(_row(found, gpus) for gpus in question.gpus)
    return found


def _run(experiment: MetaExperiment, question: Question) -> Run:
    trainer = experiment.trainer
    steps = question.steps or int(trainer.get("max_steps") or -1)
    if steps < 1:
        raise InputError("trainer.max_steps is not given, so that nothing says how long the run is; give --steps")
    strategy: Any = trainer.get("strategy") or "auto"
    named = strategy if isinstance(strategy, str) else str(strategy.get("class_path", ""))
    given: Mapping[str, Any] = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
    if given.get("replicas", 1) != 1 or given.get("frozen", "sharded") != "sharded":
        raise InputError(
            "trainer.strategy has replicas or replicated frozen weights, but an estimate counts weights that are "
            "sharded over all GPUs; give --trainer.strategy.init_args.replicas 1 and ...frozen sharded"
        )
    if given.get("context_parallel_size", 1) != 1:
        raise InputError(
            f"trainer.strategy.context_parallel_size is {given['context_parallel_size']}, but an estimate counts whole "
            "clips on every GPU; leave it out"
        )
    computes = given.get("compute_dtype") or ("bf16" if "fsdp2" in named else trainer.get("precision") or "32-true")
    return Run(
        steps=steps,
        accumulate=int(trainer.get("accumulate_grad_batches") or 1),
        clips_per_step=question.clips_per_step,
        # several GPUs with nothing said about them: sharded, as the full experiments are run
        sharded="ddp" not in named.lower(),
        reduce_every_batch=bool(given.get("reduce_every_micro_batch", False)),
        averaged="EMA" in experiment.callbacks,
        compute_bytes=FLOAT32 if str(computes).startswith(("32", "float32")) else BFLOAT16,
    )


def _row(found: Estimate, gpus: int) -> dict[str, Any]:
    """Memory, time and traffic on so many GPUs; nothing but the number where the clips cannot be dealt out."""
    question, counts, run = found.question, found.counts, found.run
    dealt = deal(run, counts.shape.clips, gpus)
    if dealt is None:
        return {"gpus": gpus, "dealt": None}
    memory = memory_per_gpu(counts, run, gpus, dealt)
    carried, clip = traffic(counts, run, gpus, dealt), found.clip_bytes()
    speeds = []
    for mfu in question.mfu:
        transformer, encoding = step_s(counts, dealt.clips, gpus, mfu, question.peak_tflops)
        seconds = transformer + encoding
        speeds.append(
            {
                "mfu": mfu,
                "step_s": seconds,
                "encoding_share": encoding / seconds,
                "clips_per_s": dealt.clips / seconds,
                "days": seconds * run.steps / 86400,
                "gpu_hours": seconds * run.steps * gpus / 3600,
                "gpu_hours_encoded": transformer * run.steps * gpus / 3600,
                # of encoded clips: the shorter step is the harder one for network and storage
                "network_bytes_per_s": carried.total / transformer,
                "recorded_bytes_per_s": clip["recorded"] * dealt.clips / seconds,
                "decoded_bytes_per_s_per_gpu": clip["decoded"] * dealt.clips / seconds / gpus,
                "encoded_bytes_per_s": clip["encoded"] * dealt.clips / transformer,
            }
        )
    return {
        "gpus": gpus,
        "dealt": asdict(dealt),
        "memory": memory,
        "fits": {f"{size:g}": memory["peak"] <= (1 - RESERVED) * size * GIB for size in question.memory_gb},
        "network": asdict(carried),
        "mfu": speeds,
    }
