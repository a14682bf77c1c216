"""All rows in the order in which they run: cheapest and most telling first, correctness before speed."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu.command_line_checks import (
    HARMONY,
    QUICKSTART,
    check_one_card,
    check_quickstart,
    check_sharded,
)
from benchmarks.gpu.compiled_figures import check_compiled, measure_compiled_harmony, measure_compiled_syncphony
from benchmarks.gpu.harmony_figures import measure_harmony_adapters, measure_harmony_guided, measure_harmony_step
from benchmarks.gpu.model_checks import (
    check_attention_backends,
    check_checkpointing,
    check_harmony,
    check_harmony_sampling,
    check_syncphony,
    check_syncphony_sampling,
)
from benchmarks.gpu.part_checks import (
    check_causal_vae,
    check_cyclesync,
    check_flex_attention,
    check_loader,
    check_mmaudio,
    check_syncnet,
    check_wan_vae,
)
from benchmarks.gpu.part_figures import measure_card, measure_causal_vae, measure_data_wait, measure_wan_vae
from benchmarks.gpu.rows import Row
from benchmarks.gpu.savings import (
    measure_harmony_drivers,
    measure_optimizers,
    measure_recomputation,
    measure_syncphony_sampling,
    measure_syncphony_training,
)
from benchmarks.gpu.syncphony_figures import measure_columns, measure_syncphony_guided, measure_syncphony_step

one_card_syncphony, one_card_harmony = (partial(check_one_card, experiment) for experiment in (QUICKSTART, HARMONY))
small_step, large_step = (partial(measure_harmony_step, size) for size in ("480p", "704p"))
small_guided, large_guided = (partial(measure_harmony_guided, size) for size in ("480p", "704p"))
miniflux, sd3 = (partial(check_syncphony, variant) for variant in ("miniflux", "sd3"))
AV = ("av",)
ROWS: list[Row] = [
    Row("card", "matrix products and copies of the card itself", measure_card, 3, in_ci=False),
    Row("syncphony_miniflux", "forward, loss and gradients, miniFLUX", miniflux, 4),
    Row("syncphony_sd3", "forward, loss and gradients, SD3", sd3, 3),
    Row("harmony", "forward, loss and gradients of all three tasks", check_harmony, 4),
    Row("syncphony_sampling", "sampling guided by text and sound", check_syncphony_sampling, 4, in_ci=False),
    Row("harmony_sampling", "joint sampling guided by text and SyncCFG", check_harmony_sampling, 3),
    Row("causal_vae", "Pyramid Flow's VAE, small", check_causal_vae, 4, in_ci=False),
    Row("wan_vae", "Wan2.2's VAE, small", check_wan_vae, 4),
    Row("mmaudio", "MMAudio's VAE and vocoder, small", check_mmaudio, 4),
    Row("syncnet", "Sync-C and Sync-D of the shipped small SyncNet", check_syncnet, 3),
    Row("cyclesync", "CycleSync with the shipped small judge", check_cyclesync, 2),
    Row("checkpointing", "gradients with and without activation checkpoints", check_checkpointing, 4, in_ci=False),
    Row("attention_backends", "every attention_backend", check_attention_backends, 10, 60, in_ci=False),
    Row("one_card", "Syncphony: avsync fit with gpu.yaml", one_card_syncphony, 20, 90, in_ci=False),
    Row("one_card_harmony", "Harmony: avsync fit with gpu.yaml", one_card_harmony, 20, 90, in_ci=False),
    Row("sharded", "avsync fit with fsdp.yaml, saved and resumed", check_sharded, 40, 150, in_ci=False),
    Row("syncphony_step", "training step, 4 clips of 384x640x121", measure_syncphony_step, 25, 90),
    Row("syncphony_columns", "the step's columns in one call and in a call each", measure_columns, 25, 90, in_ci=False),
    Row("harmony_step_480p", "stage-3 training step, 480x832x121", small_step, 25, 90, in_ci=False),
    Row("syncphony_guided", "guided steps of all stages, 384x640x121", measure_syncphony_guided, 15, 60),
    Row("harmony_guided_480p", "guided step, 480x832x121", small_guided, 20, 90),
    Row("optimizers", "a step of each over Syncphony's trained weights", measure_optimizers, 15, 90, in_ci=False),
    Row("syncphony_savings", "sampling a clip, saving by saving", measure_syncphony_sampling, 60, 150, in_ci=False),
    Row("syncphony_step_savings", "the same in a training step", measure_syncphony_training, 25, 90, in_ci=False),
    Row("harmony_drivers", "driving modalities kept, and anew", measure_harmony_drivers, 60, 150, in_ci=False),
    Row("recomputation", "activations kept, and computed again", measure_recomputation, 30, 120, in_ci=False),
    Row("compiled", "gradients of compiled blocks", check_compiled, 60, 150, in_ci=False),
    Row("compiled_syncphony", "training step, eager and compiled", measure_compiled_syncphony, 90, 200, in_ci=False),
    Row("compiled_harmony", "four layers' step, eager and compiled", measure_compiled_harmony, 90, 200, in_ci=False),
    # FlexAttention is a choice; what it compiles takes the better part of a minute
    Row(
        "flex_attention",
        "FlexAttention and gathered windows against the mask",
        check_flex_attention,
        40,
        120,
        in_ci=False,
    ),
    Row("causal_vae_full", "Pyramid Flow's VAE, 384x640x121", measure_causal_vae, 20, 90, in_ci=False),
    Row("wan_vae_full", "Wan2.2's VAE, 480x832x121", measure_wan_vae, 25, 90, in_ci=False),
    Row("quickstart", "avsync fit of the quickstart as it stands", check_quickstart, 40, 120, AV, in_ci=False),
    Row("loader", "real files through the loader to the device", check_loader, 5, 60, AV, in_ci=False),
    Row("harmony_step_704p", "stage-3 training step, 704x1280x121", large_step, 30, 90, in_ci=False),
    Row("harmony_guided_704p", "guided step, 704x1280x121", large_guided, 40, 120, in_ci=False),
    Row("harmony_adapters_480p", "LoRA step of all layers", measure_harmony_adapters, 45, 120, in_ci=False),
    Row("data_wait", "how long steps wait for clips", measure_data_wait, 30, 90, AV, in_ci=False),
]
