"""Backbones from folders in the public layout, whichever variant they hold.

Where weights do not fit, the settings their shapes stand for are compared with ``config.json``, to name its mistake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.backbones.pyramid_flow.mmdit import PyramidMMDiT
from components.backbones.pyramid_flow.model import PyramidFlowTransformer
from components.errors import InputError
from components.weights.fit import Renames, Shapes, contradicting, num_numbered
from components.weights.named_files import names_files
from components.weights.pretrained import CONFIG_FILE, Sha256, dtype_named, full_name, load_module, pretrained_config
from components.weights.public_checkpoints import as_the_pipeline_runs_it

Variant = Literal["miniflux", "sd3"]

VARIANTS: Mapping[Variant, type[PyramidFlowTransformer]] = {"miniflux": MiniFluxTransformer, "sd3": PyramidMMDiT}

RENAMES: Mapping[Variant, Renames] = {
    "miniflux": ((".norm_add_q.", ".norm_added_q."), (".norm_add_k.", ".norm_added_k.")),
    "sd3": ((".norm_added_q.", ".norm_add_q."), (".norm_added_k.", ".norm_add_k.")),
}
"""The two releases spell the text norms differently; files saved again through diffusers have its one spelling."""


@names_files(folder="subfolder")
def pretrained_backbone(
    folder: str,
    subfolder: str | None = None,
    dtype: str | None = "float32",
    variant: Variant | None = None,
    sha256: Sha256 = None,
) -> PyramidFlowTransformer:
    """Load a transformer: ``config.json`` and the weights beside it, ``.safetensors`` or ``.bin``, whole or in parts.

    Use it in YAML as ``class_path: components.backbones.pyramid_flow.pretrained_backbone``. Under
    ``with torch.device("meta")`` only shapes are built and no weights are read; the public checkpoints then need not
    be there at all.

    Args:
        folder: folder on this disk (relative paths are also looked for in the installed package) or a hub
            repository, e.g. ``hf://rain1011/pyramid-flow-miniflux``.
        subfolder: folder within it, e.g. ``diffusion_transformer_384p``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; null keeps the file's. Where the file's is the one asked for,
            weights are mapped from the file instead of copied.
        variant: ``miniflux`` or ``sd3`` if the experiment depends on it: another one is then refused.
        sha256: digests of files in the folder by their names (see `components.weights.digests`).

    Raises:
        InputError: if the folder or a file is missing or damaged, names another model or variant, or the weights do
            not fit.
    """
    if variant is not None and variant not in VARIANTS:
        raise InputError(f"variant is '{variant}'; give {' or '.join(VARIANTS)}, or null for whatever the folder holds")
    path, config = pretrained_config(folder, subfolder, sha256)
    file = path / CONFIG_FILE
    found = _variant(file, config)
    if variant is not None and found != variant:
        raise InputError(
            f"{file} describes the {found} variant ({VARIANTS[found].class_name}), but variant is '{variant}'; give "
            f"a folder of that variant or set variant to '{found}'"
        )
    # config.json of a release is wrong about causality and stretched history: its pipeline sets both on loading
    config = as_the_pipeline_runs_it({"_class_name": VARIANTS[found].class_name, **config})

    def build() -> PyramidFlowTransformer:
        try:
            return VARIANTS[found].from_config(config)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise InputError(f"{file} describes no model ({error}); restore it from the release") from None

    def contradictions(model: PyramidFlowTransformer, shapes: Shapes) -> list[str]:
        return contradicting(model.config, transformer_settings(shapes))

    return load_module(build, path, full_name(folder, subfolder), dtype_named(dtype), RENAMES[found], contradictions)


def _variant(file: Path, config: Mapping[str, Any]) -> Variant:
    """The variant ``config.json`` names; releases without a name are known by settings only one has."""
    names: dict[str, Variant] = {model.class_name: variant for variant, model in VARIANTS.items()}
    name = config.get("_class_name")
    if name is None:
        if "axes_dims_rope" in config or "num_single_layers" in config:
            return "miniflux"
        if "pos_embed_max_size" in config:
            return "sd3"
        raise InputError(f"{file} describes no Pyramid Flow transformer (it has no _class_name); give one's folder")
    if name not in names:
        raise InputError(
            f"{file} names the class {name!r}: expected one of {sorted(names)}; give the folder of a transformer, such "
            "as diffusion_transformer_384p"
        )
    return names[str(name)]


def transformer_settings(shapes: Shapes) -> dict[str, object]:
    """Settings of ``config.json`` that can be read off ``shapes`` (under the public keys), as far as they go."""
    found: dict[str, object] = {
        "num_layers": num_numbered(shapes, "transformer_blocks"),
        "num_single_layers": num_numbered(shapes, "single_transformer_blocks"),
    }
    axes = {
        "attention_head_dim": ("transformer_blocks.0.attn.norm_q.weight", 0),
        "joint_attention_dim": ("context_embedder.weight", 1),
        "pooled_projection_dim": ("time_text_embed.text_embedder.linear_1.weight", 1),
        # a linear layer on 2x2 patches in miniFLUX, a convolution in SD3
        "in_channels": ("pos_embed.proj.weight" if "pos_embed.proj.weight" in shapes else "x_embedder.weight", 1),
        "patch_size": ("pos_embed.proj.weight", 2),
    }
    for setting, (key, axis) in axes.items():
        if len(shapes.get(key, ())) > axis:
            found[setting] = shapes[key][axis]
    head_dim = shapes.get("transformer_blocks.0.attn.norm_q.weight", ())
    if len(head_dim) == 1 and head_dim[0] and "context_embedder.bias" in shapes:
        # the width is stored, the number of heads is not
        found["num_attention_heads"] = math.prod(shapes["context_embedder.bias"]) // head_dim[0]
    if len(table := shapes.get("pos_embed.pos_embed", ())) == 3:
        found["pos_embed_max_size"] = math.isqrt(table[1])
    return found
