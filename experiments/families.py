"""Further families, not tuned for: encoder-decoders, windows, experts, diffusion transformers.

The same kind of factories as in :mod:`experiments.subjects`, at middle size by default. They show
what happens to a model that nobody had in mind.
"""

from __future__ import annotations

from typing import Any

import torch

from experiments.image_models import set_attention
from experiments.weights import Subject, redraw_zeros


def t5(
    layers: int = 2,
    width: int = 512,
    heads: int = 8,
    intermediate: int = 2048,
    vocabulary: int = 1000,
    parts: str = "encoder",
    target: int = 16,
    batch: int = 1,
) -> Subject:
    """Hugging Face's T5, with relative positions; ``length`` counts the encoder's tokens.

    Args:
        parts: ``"encoder"``, or ``"both"`` for the decoder as well, on ``target`` tokens.
    """
    from transformers import T5Config, T5EncoderModel, T5Model

    kinds = {"encoder": T5EncoderModel, "both": T5Model}
    if parts not in kinds:
        raise ValueError(f"parts must be 'encoder' or 'both', got {parts!r}")
    torch.manual_seed(0)
    config = T5Config(
        d_model=width,
        d_kv=width // heads,
        d_ff=intermediate,
        num_layers=layers,
        num_heads=heads,
        vocab_size=vocabulary,
        use_cache=False,
    )
    model = redraw_zeros(kinds[parts](config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        if parts == "encoder":
            return (ids,), {}
        started = torch.randint(0, vocabulary, (batch, target), generator=generator)
        return (), {"input_ids": ids, "decoder_input_ids": started, "use_cache": False}

    return model, inputs


def swin(
    width: int = 96,
    depths: tuple[int, ...] = (2, 2, 2),
    heads: tuple[int, ...] = (3, 6, 12),
    window: int = 7,
    patch: int = 4,
    image: int = 224,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Hugging Face's Swin, plain and shifted windows; ``length`` is the image's side in pixels."""
    from transformers import SwinConfig, SwinModel

    torch.manual_seed(0)
    config = SwinConfig(
        image_size=image,
        patch_size=patch,
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        window_size=window,
        attn_implementation=attention,
    )
    model = redraw_zeros(SwinModel(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randn(batch, 3, length, length, generator=generator),), {}

    return model, inputs


def mixtral(
    layers: int = 2,
    width: int = 256,
    heads: int = 8,
    key_heads: int = 4,
    intermediate: int = 512,
    experts: int = 8,
    chosen: int = 2,
    vocabulary: int = 1000,
    experts_by: str = "batched_mm",
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Hugging Face's Mixtral, a mixture of experts; ``length`` counts tokens.

    Args:
        experts_by: how the library runs its experts. ``"eager"`` loops over the experts that are
            hit, which depends on the data, so that such a model cannot be captured whole.
    """
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=intermediate,
        num_local_experts=experts,
        num_experts_per_tok=chosen,
        vocab_size=vocabulary,
        max_position_embeddings=16384,
        sliding_window=None,
        use_cache=False,
        attn_implementation=attention,
        experts_implementation=experts_by,
    )
    model = redraw_zeros(MixtralForCausalLM(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        return (ids,), {"use_cache": False}

    return model, inputs


def dit(
    layers: int = 2,
    heads: int = 8,
    head_width: int = 64,
    groups: int = 32,
    patch: int = 2,
    sample: int = 32,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Diffusers' diffusion transformer with class labels; ``length`` is the latent's side."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        num_layers=layers,
        norm_num_groups=groups,
        sample_size=sample,
        patch_size=patch,
        num_embeds_ada_norm=10,
    )
    set_attention(model, attention)
    model = redraw_zeros(model.eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        latent = torch.randn(batch, 4, length, length, generator=generator)
        step = torch.full((batch,), 500)
        return (latent,), {"timestep": step, "class_labels": torch.full((batch,), 3)}

    return model, inputs


def pixart(
    layers: int = 2,
    heads: int = 8,
    head_width: int = 64,
    context_width: int = 256,
    context: int = 32,
    groups: int = 32,
    patch: int = 2,
    sample: int = 64,
    batch: int = 1,
) -> Subject:
    """Diffusers' PixArt transformer, SDPA, cross-attention to text; ``length``: the latent's side.

    The text has a mask that hides its last quarter.
    """
    from diffusers import PixArtTransformer2DModel

    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_width,
        num_layers=layers,
        norm_num_groups=groups,
        cross_attention_dim=heads * head_width,
        caption_channels=context_width,
        sample_size=sample,
        patch_size=patch,
        use_additional_conditions=False,
    )
    model = redraw_zeros(model.eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        latent = torch.randn(batch, 4, length, length, generator=generator)
        text = torch.randn(batch, context, context_width, generator=generator)
        mask = torch.ones(batch, context)
        mask[:, context - context // 4 :] = 0
        return (latent,), {
            "encoder_hidden_states": text,
            "encoder_attention_mask": mask,
            "timestep": torch.full((batch,), 500),
        }

    return model, inputs


class _Decoder(torch.nn.Module):
    """The decoding half of an autoencoder, with the model's own output."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent: torch.Tensor) -> Any:
        return self.autoencoder.decode(latent)


def vae_decoder(
    channels: tuple[int, ...] = (64, 128, 256, 256),
    layers: int = 2,
    groups: int = 32,
    batch: int = 1,
) -> Subject:
    """Decoding with diffusers' AutoencoderKL, untiled; ``length`` is the latent's side.

    The widths are half of Stable Diffusion's.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        layers_per_block=layers,
        norm_num_groups=groups,
        sample_size=512,
    )
    del autoencoder.encoder, autoencoder.quant_conv  # decoding uses neither
    model = redraw_zeros(_Decoder(autoencoder).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randn(batch, 4, length, length, generator=generator),), {}

    return model, inputs


def segformer(
    widths: tuple[int, ...] = (64, 128),
    heads: tuple[int, ...] = (1, 2),
    reductions: tuple[int, ...] = (4, 1),
    ratio: int = 2,
    batch: int = 1,
) -> Subject:
    """Hugging Face's SegFormer encoder, attention to reduced keys; ``length``: the image's side.

    One block a stage; the first stage takes patches of 4 pixels, the others halve the side.
    """
    from transformers import SegformerConfig, SegformerModel

    torch.manual_seed(0)
    stages = len(widths)
    config = SegformerConfig(
        num_encoder_blocks=stages,
        depths=[1] * stages,
        sr_ratios=list(reductions),
        hidden_sizes=list(widths),
        patch_sizes=[7, *[3] * (stages - 1)],
        strides=[4, *[2] * (stages - 1)],
        num_attention_heads=list(heads),
        mlp_ratios=[ratio] * stages,
    )
    model = redraw_zeros(SegformerModel(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randn(batch, 3, length, length, generator=generator),), {}

    return model, inputs
