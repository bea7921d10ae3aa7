"""What the rows of :mod:`experiments.zoo` are made of: inputs, configurations, builders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from experiments.subjects import Subject, redraw_zeros

Given = Callable[[int, torch.Generator], dict[str, Any]]
"""From a length and a source of numbers to keyword arguments."""

LENGTHS = (48, 61)
"""Of text: one that divides well, and one that does not."""


@dataclass(frozen=True, slots=True)
class Family:
    """A tiny model of a library; called, it is a factory.

    Attributes:
        subject: makes the model, and its inputs by length.
        lengths: two that it takes; twice the same where its sizes are fixed.
    """

    subject: Callable[[], Subject]
    lengths: tuple[int, int]

    def __call__(self) -> Subject:
        return self.subject()


def family(
    make: Callable[[], torch.nn.Module], given: Given, lengths: tuple[int, int] = LENGTHS
) -> Family:
    """A family of a library's class: ``make`` builds the model, ``given`` what it takes."""

    def subject() -> Subject:
        torch.manual_seed(0)
        model = redraw_zeros(make().eval())

        def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (), given(length, torch.Generator().manual_seed(length))

        return model, inputs

    return Family(subject, lengths)


# -- inputs --------------------------------------------------------------------------------------


def tokens(length: int, source: torch.Generator, **more: Any) -> dict[str, Any]:
    """Whole numbers below 100."""
    return {"input_ids": torch.randint(4, 100, (1, length), generator=source), **more}


def masked_tokens(length: int, source: torch.Generator) -> dict[str, Any]:
    """Two rows, of which the second is shorter."""
    ids = torch.randint(4, 100, (2, length), generator=source)
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, -length // 4 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def decoded(given: Given) -> Given:
    """What an encoder takes, and twelve tokens for a decoder."""

    def both(length: int, source: torch.Generator) -> dict[str, Any]:
        target = torch.randint(4, 100, (1, 12), generator=source)
        return {**given(length, source), "decoder_input_ids": target, "use_cache": False}

    return both


def pixels(length: int, source: torch.Generator) -> dict[str, Any]:
    """A square image."""
    return {"pixel_values": torch.randn(1, 3, length, length, generator=source)}


def clip(length: int, source: torch.Generator) -> dict[str, Any]:
    """Four square frames."""
    return {"pixel_values": torch.randn(1, 4, 3, length, length, generator=source)}


def sound(length: int, source: torch.Generator) -> dict[str, Any]:
    """A waveform of ``100 * length`` samples."""
    return {"input_values": torch.randn(1, 100 * length, generator=source)}


def spectrum(length: int, source: torch.Generator) -> dict[str, Any]:
    """80 bands over ``2 * length`` steps."""
    return {"input_features": torch.randn(1, 80, 2 * length, generator=source)}


def latent(name: str, *sizes: int) -> Given:
    """Noise of ``sizes`` and the length twice, as the argument ``name``."""

    def noise(length: int, source: torch.Generator) -> dict[str, Any]:
        return {name: torch.randn(*sizes, length, length, generator=source)}

    return noise


def prompted(noise: Given, **more: Any) -> Given:
    """A latent, a step, and eight tokens of text of width 32."""

    def given(length: int, source: torch.Generator) -> dict[str, Any]:
        made = noise(length, source)
        return {
            "timestep": torch.tensor([500]),
            "encoder_hidden_states": torch.randn(1, 8, 32, generator=source),
            **made,
            **more,
        }

    return given


# -- configurations ------------------------------------------------------------------------------

TEXT: Mapping[str, Any] = MappingProxyType({
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 100, "max_position_embeddings": 160, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "use_cache": False,
})  # fmt: skip
GROUPED: Mapping[str, Any] = MappingProxyType({**TEXT, "num_key_value_heads": 2, "head_dim": 8})
BOTH: Mapping[str, Any] = MappingProxyType({
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100,
    "max_position_embeddings": 160, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "forced_eos_token_id": None,
})  # fmt: skip
IMAGE: Mapping[str, Any] = MappingProxyType({
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 32, "patch_size": 4,
})  # fmt: skip
EXPERTS: Mapping[str, Any] = MappingProxyType(
    {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
)
LATENTS: Mapping[str, Any] = MappingProxyType(
    {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16}
)
WAVES: Mapping[str, Any] = MappingProxyType({
    "conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, **TEXT,
})  # fmt: skip


# -- models --------------------------------------------------------------------------------------


def transformer(kind: str, part: str = "", **config: Any) -> torch.nn.Module:
    """The transformers model of a configuration's kind, or a part of it."""
    from transformers import AutoConfig, AutoModel

    model: torch.nn.Module = AutoModel.from_config(AutoConfig.for_model(kind, **config))
    return model.get_submodule(part)


class Method(torch.nn.Module):
    """One method of a model, as a model."""

    def __init__(self, model: torch.nn.Module, name: str) -> None:
        super().__init__()
        self.model = model
        self._name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.model, self._name)(*args, **kwargs)


def diffuser(name: str, **config: Any) -> torch.nn.Module:
    """The diffusers model of a class's name."""
    import diffusers

    model: torch.nn.Module = getattr(diffusers, name)(**config)
    return model


def half(name: str, method: str, other: Sequence[str], **config: Any) -> torch.nn.Module:
    """One method of an autoencoder, without the ``other`` half's modules."""
    model = diffuser(name, **config)
    for part in other:
        delattr(model, part)
    return Method(model, method)


def text(
    kind: str, given: Given = tokens, lengths: tuple[int, int] = LENGTHS, **more: Any
) -> Family:
    """A transformers model of text in the usual words of configuration."""
    return family(partial(transformer, kind, **{**TEXT, **more}), given, lengths)


def causal(kind: str, **more: Any) -> Family:
    """A decoder with grouped keys."""
    return family(partial(transformer, kind, **{**GROUPED, **more}), tokens)


def image(kind: str, lengths: tuple[int, int] = (32, 32), **more: Any) -> Family:
    """A vision transformer in the usual words of configuration."""
    return family(partial(transformer, kind, **{**IMAGE, **more}), pixels, lengths)


def net(kind: str, lengths: tuple[int, int] = (64, 96), **config: Any) -> Family:
    """A model of images in words of its own."""
    return family(partial(transformer, kind, **config), pixels, lengths)
