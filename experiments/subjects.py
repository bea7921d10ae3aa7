"""Models to tune: real library code with random weights.

Each function is a campaign factory: it returns the model and a function ``inputs(length)``, which
gives ``(args, kwargs)``. Weights that libraries initialise to zero are drawn anew, since with them
a comparison of outputs would be vacuous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Inputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
Subject = tuple[torch.nn.Module, Inputs]


def redraw_zeros(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw weights and biases that are all zero (or all one) anew, small and from a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
                noise = torch.randn(parameter.shape, generator=generator) * 0.02
                parameter.add_(noise.to(parameter))
    return model


def gpt2(
    layers: int = 2,
    width: int = 768,
    heads: int = 12,
    positions: int = 16384,
    vocabulary: int = 50257,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Hugging Face's GPT-2 without its head; ``length`` is the number of tokens."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_positions=positions,
        vocab_size=vocabulary,
        use_cache=False,
        attn_implementation=attention,
    )
    model = redraw_zeros(GPT2Model(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        return (ids,), {"use_cache": False}

    return model, inputs


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


def llama(
    layers: int = 2,
    width: int = 512,
    heads: int = 8,
    key_heads: int = 4,
    vocabulary: int = 1000,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Hugging Face's Llama with grouped queries and all logits; ``length`` counts tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=4 * width,
        vocab_size=vocabulary,
        max_position_embeddings=16384,
        use_cache=False,
        attn_implementation=attention,
    )
    model = redraw_zeros(LlamaForCausalLM(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        return (ids,), {"use_cache": False}

    return model, inputs


def bert(
    layers: int = 2,
    width: int = 768,
    heads: int = 12,
    positions: int = 8192,
    vocabulary: int = 1000,
    attention: str = "eager",
    batch: int = 1,
) -> Subject:
    """Hugging Face's BERT encoder; ``length`` counts tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        attn_implementation=attention,
    )
    model = redraw_zeros(BertModel(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        return (torch.randint(0, vocabulary, (batch, length), generator=generator),), {}

    return model, inputs
