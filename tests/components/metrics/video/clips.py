"""Clips with known contents for the judges of pictures, and tiny folders of the real model classes."""

import torch
from safetensors.torch import save_file

from components.contracts import ClipBatch, Generation


def generation(video, fps=24.0, real=None):
    """``[B, T, 3, H, W]`` in [0, 1] as generated clips; ``real`` uint8 of that shape, by default the same pictures."""
    count = len(video)
    batch = ClipBatch(
        ids=[f"clip{i}" for i in range(count)],
        video=(255 * video).round().byte() if real is None else real,
        fps=fps,
        audio=torch.zeros(count, 16),
        sample_rate=16000,
        captions=[""] * count,
        video_ids=[f"clip{i}" for i in range(count)],
    )
    return Generation(video=video, fps=fps, audio=batch.audio, sample_rate=16000, reference=batch)


def noise(clips, frames, height, width, seed=0):
    drawn = torch.randint(0, 256, (clips, frames, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return drawn.float() / 255


def frozen(clips, frames, height, width, seed=0):
    return noise(clips, 1, height, width, seed).expand(-1, frames, -1, -1, -1)


def moving_square(frames, size, pixels_per_frame, side=8):
    """One clip: a white square that moves to the right over black."""
    video = torch.zeros(1, frames, 3, size, size)
    for i in range(frames):
        left = i * pixels_per_frame
        video[0, i, :, 4 : 4 + side, left : left + side] = 1
    return video


def vision_folder(folder, kind, hidden=32):
    """A tiny vision transformer of the DINO family, or SigLIP or CLIP whole, with its front end, as on the hub."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "siglip":
        text = sizes | {"vocab_size": 50, "projection_size": hidden}
        config = hf.SiglipConfig(vision_config=sizes | {"image_size": 28, "patch_size": 14}, text_config=text)
        model, front_end = hf.SiglipModel(config), hf.SiglipImageProcessor(size={"height": 28, "width": 28})
    elif kind == "clip":
        vision = sizes | {"image_size": 28, "patch_size": 14, "projection_dim": 20}
        text = sizes | {"vocab_size": 50, "projection_dim": 20}
        model = hf.CLIPModel(hf.CLIPConfig(vision_config=vision, text_config=text, projection_dim=20))
        size = {"height": 28, "width": 28}
        front_end = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    elif kind == "dinov3_vit":
        config = hf.DINOv3ViTConfig(**sizes, image_size=32, patch_size=16, num_register_tokens=4)
        model = hf.DINOv3ViTModel(config)
        front_end = hf.DINOv3ViTImageProcessor(size={"height": 32, "width": 32})
    elif kind == "dinov2":
        model = hf.Dinov2Model(hf.Dinov2Config(**sizes, image_size=28, patch_size=14))
        front_end = hf.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    else:
        model = hf.ViTModel(hf.ViTConfig(**sizes, image_size=32, patch_size=16), add_pooling_layer=False)
        front_end = hf.ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    front_end.save_pretrained(folder)
    return str(folder)


def scripted(module, file):
    torch.jit.script(module).save(str(file))
    return str(file)


def saved(net, file):
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, file)
    return str(file)
