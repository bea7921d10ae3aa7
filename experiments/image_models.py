"""Models of images: a vision transformer and the networks of diffusion."""

from __future__ import annotations

from typing import Any

import torch

from experiments.weights import Subject, redraw_zeros


def vit(
    layers: int = 2,
    width: int = 1024,
    heads: int = 16,
    patch: int = 16,
    image: int = 384,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Hugging Face's ViT with interpolated positions; ``length`` is the image's side in pixels."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=image,
        patch_size=patch,
        attn_implementation=attention,
    )
    model = redraw_zeros(ViTModel(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        pixels = torch.randn(batch, 3, length, length, generator=generator)
        return (pixels,), {"interpolate_pos_encoding": True}

    return model, inputs


def set_attention(model: torch.nn.Module, attention: str) -> None:
    """Give every attention of a diffusers model the library's processor: ``"eager"`` (logits and
    probabilities whole) or ``"sdpa"``."""
    from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

    processors = {"eager": AttnProcessor, "sdpa": AttnProcessor2_0}
    if attention not in processors:
        raise ValueError(f"attention must be 'eager' or 'sdpa', got {attention!r}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(processors[attention]())


def unet2d(
    channels: tuple[int, ...] = (64, 128, 192, 256),
    layers: int = 2,
    head_width: int = 8,
    groups: int = 32,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Diffusers' unconditional UNet2DModel; ``length`` is the image's side."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=64,
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        attention_head_dim=head_width,
        norm_num_groups=groups,
    )
    set_attention(model, attention)
    model = redraw_zeros(model.eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randn(batch, 3, length, length, generator=generator), torch.tensor(500)), {}

    return model, inputs


def unet2d_condition(
    channels: tuple[int, ...] = (96, 192, 384, 384),
    heads: int = 8,
    context_width: int = 768,
    context: int = 77,
    layers: int = 2,
    groups: int = 32,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Diffusers' UNet of Stable Diffusion 1.5 with other widths; ``length`` is the latent's side.

    Args:
        attention: see :func:`set_attention`.
    """
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=tuple(channels),
        attention_head_dim=heads,  # the number of heads, by the library's naming
        cross_attention_dim=context_width,
        layers_per_block=layers,
        norm_num_groups=groups,
    )
    set_attention(model, attention)
    model = redraw_zeros(model.eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        latent = torch.randn(batch, 4, length, length, generator=generator)
        text = torch.randn(batch, context, context_width, generator=generator)
        return (latent, torch.tensor(500), text), {}

    return model, inputs
