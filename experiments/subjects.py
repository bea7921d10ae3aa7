"""The models that are measured and tested: each by a row that fixes every argument.

Each function is a campaign factory: it returns the model and a function ``inputs(length)``, which
gives ``(args, kwargs)``. They are real library code with random weights; those that libraries
initialise to zero are drawn anew, since with them a comparison of outputs would be vacuous.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from experiments.image_models import set_attention, unet2d, unet2d_condition, vit
from experiments.language_models import bert, gpt2, llama, qwen3
from experiments.protein_models import esmfold, esmfold_block, esmfold_stack, evoformer
from experiments.weights import Inputs, Subject, redraw_zeros

__all__ = [
    "BARS",
    "TINY",
    "TINY_LENGTHS",
    "Bar",
    "Inputs",
    "Subject",
    "bert",
    "esmfold",
    "esmfold_block",
    "esmfold_stack",
    "evoformer",
    "family",
    "gpt2",
    "llama",
    "qwen3",
    "redraw_zeros",
    "set_attention",
    "unet2d",
    "unet2d_condition",
    "vit",
]


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
