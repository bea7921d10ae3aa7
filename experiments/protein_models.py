"""Models of proteins: ESMFold, whole and in parts, and a block of the Evoformer."""

from __future__ import annotations

from typing import Any

import torch

from experiments.weights import Subject, redraw_zeros


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


def _trunk(
    blocks: int, c_s: int, c_z: int, head_width: int, structure_width: int
) -> dict[str, Any]:
    """The configuration of ESMFold's trunk, without dropout or chunks."""
    return {
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
    }


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
            "trunk": _trunk(blocks, c_s, c_z, head_width, structure_width),
        },
    )
    model = redraw_zeros(EsmForProteinFolding(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        residues = torch.randint(0, 20, (batch, length), generator=generator)
        return (residues,), {"num_recycles": recycles}

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
