"""Models to tune: real library code with random weights.

Each function is a campaign factory: it returns the model and a function ``inputs(length)``, which
gives ``(args, kwargs)``. Weights that libraries initialise to zero are drawn anew, since with them
a comparison of outputs would be vacuous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

Inputs = Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]
Subject = tuple[torch.nn.Module, Inputs]


def redraw_zeros(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw what the library sets to one constant (zero, one, 1e-6) anew, from a fixed seed.

    A little noise is added to such weights, biases and running statistics; other buffers are left
    alone, since they may be masks or tables.
    """
    generator = torch.Generator().manual_seed(seed)
    running = [
        statistic
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._NormBase)
        for statistic in (module.running_mean, module.running_var)
        if statistic is not None
    ]
    with torch.no_grad():
        for tensor in (*model.parameters(), *running):
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                noise = torch.randn(tensor.shape, generator=generator) * 0.02
                tensor.add_(noise.to(tensor))
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
    logits: str = "all",
    intermediate: int | None = None,
    positions: int = 16384,
) -> Subject:
    """Hugging Face's Llama with grouped queries; ``length`` counts tokens.

    Args:
        logits: ``"all"``, or ``"last"`` for those of the last token alone, as in prefill.
        intermediate: the feed-forward's width; without one, four times the model's.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    kept = _kept_logits(logits)

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=4 * width if intermediate is None else intermediate,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        use_cache=False,
        attn_implementation=attention,
    )
    model = redraw_zeros(LlamaForCausalLM(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        return (ids,), {"use_cache": False, **kept}

    return model, inputs


def qwen3(
    layers: int = 2,
    width: int = 512,
    heads: int = 8,
    key_heads: int = 2,
    head_width: int = 64,
    vocabulary: int = 1000,
    attention: str = "eager",
    batch: int = 1,
    logits: str = "all",
    intermediate: int | None = None,
    positions: int = 16384,
) -> Subject:
    """Hugging Face's Qwen3: grouped queries, normalised queries and keys; arguments as Llama's."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    kept = _kept_logits(logits)
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head_width,
        intermediate_size=3 * width if intermediate is None else intermediate,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        use_cache=False,
        attn_implementation=attention,
    )
    model = redraw_zeros(Qwen3ForCausalLM(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        return (ids,), {"use_cache": False, **kept}

    return model, inputs


def _kept_logits(logits: str) -> dict[str, Any]:
    """The keyword argument of a causal model that asks for these logits."""
    if logits not in ("all", "last"):
        raise ValueError(f"logits must be 'all' or 'last', got {logits!r}")
    return {"logits_to_keep": 1} if logits == "last" else {}


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


class _BlockStack(torch.nn.Module):
    """Blocks that pass a sequence state and a pair state on to each other."""

    def __init__(self, blocks: list[torch.nn.Module]) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)

    def forward(
        self, sequence: torch.Tensor, pairs: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for block in self.blocks:
            sequence, pairs = block(sequence, pairs, mask=mask)
        return sequence, pairs


def esmfold_block(
    c_s: int = 1024,
    c_z: int = 128,
    head_width: int = 32,
    batch: int = 1,
) -> Subject:
    """A block of the ESMFold trunk as transformers has it; ``length`` counts residues.

    The library's own chunking is off. The inputs are the sequence state (batch, length, c_s), the
    pair state (batch, length, length, c_z) and the mask of residues (batch, length), all ones.
    """
    stack, inputs = esmfold_stack(1, c_s, c_z, head_width, batch)
    (block,) = stack.get_submodule("blocks").children()
    return block, inputs


def esmfold_stack(
    blocks: int = 4,
    c_s: int = 1024,
    c_z: int = 128,
    head_width: int = 32,
    batch: int = 1,
) -> Subject:
    """Blocks of the ESMFold trunk one after the other; inputs as for :func:`esmfold_block`."""
    from transformers.models.esm.configuration_esm import TrunkConfig
    from transformers.models.esm.modeling_esmfold import EsmFoldTriangularSelfAttentionBlock

    torch.manual_seed(0)
    config = TrunkConfig(
        num_blocks=blocks,
        sequence_state_dim=c_s,
        pairwise_state_dim=c_z,
        sequence_head_width=head_width,
        pairwise_head_width=head_width,
        dropout=0.0,
        chunk_size=None,
    )
    made = [EsmFoldTriangularSelfAttentionBlock(config) for _ in range(blocks)]
    model = redraw_zeros(_BlockStack(made).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        sequence = torch.randn(batch, length, c_s, generator=generator)
        pairs = torch.randn(batch, length, length, c_z, generator=generator)
        return (sequence, pairs), {"mask": torch.ones(batch, length)}

    return model, inputs


def esmfold(
    blocks: int = 2,
    c_s: int = 256,
    c_z: int = 64,
    head_width: int = 32,
    lm_layers: int = 2,
    lm_width: int = 128,
    lm_heads: int = 4,
    structure_width: int = 128,
    recycles: int = 0,
    batch: int = 1,
) -> Subject:
    """The whole ESMFold: language model, trunk, structure module; ``length`` counts residues.

    Everything is in float32 and the library's own chunking is off. It cannot be captured whole: its
    structure module keeps tables by size in ``functools.cache``, which symbolic sizes cannot enter.
    Capture ``trunk.blocks.*`` instead, as :func:`esmfold_block` has them.
    """
    from transformers import EsmConfig, EsmForProteinFolding
    from transformers.models.esm.configuration_esm import get_default_vocab_list

    torch.manual_seed(0)
    config = EsmConfig(
        is_folding_model=True,
        vocab_size=33,
        pad_token_id=1,
        mask_token_id=32,
        hidden_size=lm_width,
        num_hidden_layers=lm_layers,
        num_attention_heads=lm_heads,
        intermediate_size=4 * lm_width,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        use_cache=False,
        vocab_list=get_default_vocab_list(),
        esmfold_config={
            "fp16_esm": False,
            "trunk": {
                "num_blocks": blocks,
                "sequence_state_dim": c_s,
                "pairwise_state_dim": c_z,
                "sequence_head_width": head_width,
                "pairwise_head_width": head_width,
                "dropout": 0.0,
                "chunk_size": None,
                "structure_module": {
                    "sequence_dim": structure_width,
                    "pairwise_dim": c_z,
                    "num_blocks": 2,
                    "dropout_rate": 0.0,
                },
            },
        },
    )
    model = redraw_zeros(EsmForProteinFolding(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        residues = torch.randint(0, 20, (batch, length), generator=generator)
        return (residues,), {"num_recycles": recycles}

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


def evoformer(
    c_m: int = 256,
    c_z: int = 128,
    msa_heads: int = 8,
    pair_heads: int = 4,
    head_width: int = 32,
    factor: int = 4,
    outer: int = 32,
    triangle: int = 128,
    msa: int = 32,
    batch: int = 1,
) -> Subject:
    """An Evoformer block, written out; ``length`` counts residues, ``msa`` the alignment's rows."""
    from experiments.evoformer import EvoformerBlock

    torch.manual_seed(0)
    block = EvoformerBlock(c_m, c_z, msa_heads, pair_heads, head_width, factor, outer, triangle)
    model = redraw_zeros(block.eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        rows = torch.randn(batch, msa, length, c_m, generator=generator)
        pairs = torch.randn(batch, length, length, c_z, generator=generator)
        return (rows, pairs), {}

    return model, inputs


@dataclass(frozen=True, slots=True)
class Bar:
    """A subject with every argument fixed, and what a plan of it must reach.

    Attributes:
        key: a short name, for command lines and files.
        make: builds the subject.
        length: what its inputs are made for.
        eager_mb: the eager model's activation peak, in units of 2**20 bytes.
        share: the budget, as a part of that peak, that a plan must keep...
        time_ratio: ...at most at this many times the eager model's CPU time.
        min_share: what minimum mode must reach, where that is demanded too.
        floor_mb: the lowest peak that was worked out by hand, where one is known.
        longest: how many times the eager model's longest length must fit under 8 GiB, where that
            is demanded.
    """

    key: str
    name: str
    make: Callable[[], Subject]
    length: int
    eager_mb: float
    share: float
    time_ratio: float
    min_share: float | None = None
    floor_mb: float | None = None
    longest: float | None = None


_SD15_AT_96 = partial(
    unet2d_condition,
    channels=(96, 192, 384, 384),
    heads=8,
    context_width=768,
    context=77,
    layers=2,
    groups=32,
    batch=1,
)
"""The context's width and the groups are Stable Diffusion 1.5's own; neither moves the peak."""

BARS: tuple[Bar, ...] = (
    Bar(
        "gpt2",
        "GPT-2, 2 layers, d=768, eager, S=2048",
        partial(gpt2, layers=2, width=768, heads=12, positions=16384, attention="eager", batch=1),
        length=2048,
        eager_mb=442.0,
        share=0.12,
        time_ratio=1.00,
        min_share=0.10,
        floor_mb=40,
        longest=11.7,
    ),
    Bar(
        "vit",
        "ViT-L width, 2 layers, 384 px, eager",
        partial(vit, layers=2, width=1024, heads=16, patch=16, image=384, attention="eager"),
        length=384,
        eager_mb=54.2,
        share=0.28,
        time_ratio=1.05,
        floor_mb=12.5,
    ),
    Bar(
        "esmfold_block",
        "ESMFold block, c_s 1024, c_z 128, L=256",
        partial(esmfold_block, c_s=1024, c_z=128, head_width=32, batch=1),
        length=256,
        eager_mb=691.5,
        share=0.20,
        time_ratio=1.00,
        min_share=0.16,
        floor_mb=96,
    ),
    Bar(
        "unet",
        "UNet2DCondition, SD-1.5 topology, width 96, 64 x 64, eager",
        partial(_SD15_AT_96, attention="eager"),
        length=64,
        eager_mb=1040.5,
        share=0.045,
        time_ratio=1.00,
    ),
    Bar(
        "unet_sdpa",
        "UNet2DCondition, SD-1.5 topology, width 96, 64 x 64, SDPA",
        partial(_SD15_AT_96, attention="sdpa"),
        length=64,
        eager_mb=39.0,
        share=0.5,
        time_ratio=1.05,
        floor_mb=13.5,
    ),
    Bar(
        "llama",
        "Llama, 2 layers, d=512, SDPA, last logit, S=4096",
        # the feed-forward's width is the one that gives the eager peak of 100 MB; the number of
        # key heads does not move it
        partial(
            llama,
            layers=2,
            width=512,
            heads=8,
            key_heads=4,
            vocabulary=1000,
            attention="sdpa",
            batch=1,
            logits="last",
            intermediate=1408,
            positions=16384,
        ),
        length=4096,
        eager_mb=100.0,
        share=0.42,
        time_ratio=1.05,
        floor_mb=32,
    ),
    Bar(
        "bert",
        "BERT-base, 2 layers, SDPA, S=2048",
        partial(bert, layers=2, width=768, heads=12, positions=8192, attention="sdpa", batch=1),
        length=2048,
        eager_mb=66.0,
        share=0.45,
        time_ratio=1.05,
        floor_mb=24,
    ),
    Bar(
        "evoformer",
        "Evoformer block, MSA 32, 128 residues",
        partial(
            evoformer,
            c_m=256,
            c_z=128,
            msa_heads=8,
            pair_heads=4,
            head_width=32,
            factor=4,
            outer=32,
            triangle=128,
            msa=32,
            batch=1,
        ),
        length=128,
        eager_mb=144.5,
        share=0.22,
        time_ratio=1.05,
        longest=3.2,
    ),
)
"""The rows of the measured table, in its order."""


def family(name: str, **arguments: Any) -> Subject:
    """The model of :mod:`experiments.families` with this name."""
    from experiments import families

    made: Subject = getattr(families, name)(**arguments)
    return made


_TINY_GPT2 = partial(gpt2, layers=2, width=64, heads=4, positions=256, vocabulary=100)
_TINY_VIT = partial(vit, layers=2, width=64, heads=4, patch=8, image=64)
_TINY_LLAMA = partial(llama, layers=2, width=64, heads=4, key_heads=2, vocabulary=100)
_TINY_QWEN3 = partial(
    qwen3, layers=2, width=64, heads=4, key_heads=2, head_width=24, vocabulary=100
)
_TINY_BERT = partial(bert, layers=2, width=64, heads=4, positions=256, vocabulary=100)
_TINY_UNET = partial(
    unet2d_condition,
    channels=(16, 16, 32, 32),
    heads=2,
    context_width=24,
    context=7,
    layers=1,
    groups=8,
)
_TINY_ESMFOLD = partial(esmfold_stack, c_s=64, c_z=32, head_width=16)

TINY: Mapping[str, Callable[[], Subject]] = MappingProxyType(
    {
        "gpt2": _TINY_GPT2,
        "gpt2_sdpa": partial(_TINY_GPT2, attention="sdpa"),
        "vit": _TINY_VIT,
        "vit_sdpa": partial(_TINY_VIT, attention="sdpa"),
        "llama": _TINY_LLAMA,
        "llama_last": partial(_TINY_LLAMA, attention="sdpa", logits="last"),
        "qwen3": _TINY_QWEN3,
        "qwen3_last": partial(_TINY_QWEN3, attention="sdpa", logits="last"),
        "bert": _TINY_BERT,
        "bert_sdpa": partial(_TINY_BERT, attention="sdpa"),
        "esmfold_block": partial(esmfold_block, c_s=64, c_z=32, head_width=16),
        "esmfold_stack": partial(_TINY_ESMFOLD, blocks=3),
        "unet2d": partial(unet2d, channels=(16, 16, 32, 32), layers=1, groups=8),
        "unet2d_sdpa": partial(
            unet2d, channels=(16, 16, 32, 32), layers=1, groups=8, attention="sdpa"
        ),
        "unet": _TINY_UNET,
        "unet_sdpa": partial(_TINY_UNET, attention="sdpa"),
        "evoformer": partial(
            evoformer,
            c_m=32,
            c_z=16,
            msa_heads=4,
            pair_heads=2,
            head_width=8,
            factor=2,
            outer=8,
            triangle=24,
            msa=5,
        ),
        "t5_encoder": partial(family, "t5", width=64, heads=4, intermediate=96, vocabulary=100),
        "t5": partial(
            family, "t5", parts="both", width=64, heads=4, intermediate=96, vocabulary=100
        ),
        "swin": partial(
            family, "swin", width=16, depths=(2,), heads=(2,), window=4, patch=2, image=32
        ),
        # the symbolic sizes of merged patches make torch.export slow: minutes for two layers
        "swin_merge": partial(
            family, "swin", width=16, depths=(1, 1), heads=(2, 4), window=4, patch=2, image=32
        ),
        "mixtral": partial(
            family,
            "mixtral",
            width=32,
            heads=4,
            key_heads=2,
            intermediate=48,
            experts=4,
            vocabulary=100,
        ),
        "dit": partial(family, "dit", heads=2, head_width=16, groups=8, sample=16),
        "pixart": partial(
            family,
            "pixart",
            heads=2,
            head_width=16,
            context_width=24,
            context=8,
            groups=8,
            sample=16,
        ),
        "vae_decoder": partial(family, "vae_decoder", channels=(8, 16, 16), layers=1, groups=4),
    }
)
"""Small enough that every candidate of each can be run; each has a row in TINY_LENGTHS."""

TINY_LENGTHS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "gpt2": (48, 61),
        "gpt2_sdpa": (48, 61),
        "vit": (64, 88),
        "vit_sdpa": (64, 88),
        "llama": (48, 61),
        "llama_last": (48, 61),
        "qwen3": (48, 61),
        "qwen3_last": (48, 61),
        "bert": (48, 61),
        "bert_sdpa": (48, 61),
        "esmfold_block": (20, 27),
        "esmfold_stack": (20, 27),
        "unet2d": (32, 48),
        "unet2d_sdpa": (32, 48),
        "unet": (16, 24),
        "unet_sdpa": (16, 24),
        "evoformer": (20, 27),
        "t5_encoder": (48, 61),
        "t5": (48, 61),
        "swin": (44, 52),
        "swin_merge": (32, 44),
        "mixtral": (24, 31),
        "dit": (16, 22),
        "pixart": (16, 22),
        "vae_decoder": (16, 21),
    }
)
"""The length of each tiny subject, and a second one."""
