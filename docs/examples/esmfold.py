"""ESMFold, whose trunk's blocks run plans: ``python docs/examples/esmfold.py``

Random weights stand in for ``EsmForProteinFolding.from_pretrained("facebook/esmfold_v1")``, so that
nothing is downloaded. The whole model cannot be captured (its structure module keeps tables by
size), its blocks can: all of them share one capture. The library's own ``chunk_size`` stays off.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import EsmConfig, EsmForProteinFolding
from transformers.models.esm.configuration_esm import get_default_vocab_list

from tuner import AppliedTargets, apply


def small_esmfold() -> Any:
    """ESMFold with a narrow language model and trunk, in evaluation mode."""
    structure = {"sequence_dim": 32, "pairwise_dim": 64, "num_blocks": 1, "num_heads_ipa": 2}
    trunk = {
        "num_blocks": 2,
        "sequence_state_dim": 64,
        "pairwise_state_dim": 64,
        "sequence_head_width": 16,
        "pairwise_head_width": 16,
        "chunk_size": None,
        "structure_module": structure,
    }
    config = EsmConfig(
        is_folding_model=True,
        vocab_size=33,
        pad_token_id=1,
        mask_token_id=32,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        use_cache=False,
        vocab_list=get_default_vocab_list(),
        esmfold_config={"fp16_esm": False, "trunk": trunk},
    )
    return EsmForProteinFolding(config).eval()


def main(residues: int = 32) -> AppliedTargets:
    """Fold a random sequence with and without plans, and compare."""
    torch.manual_seed(0)
    model = small_esmfold()
    sequence = torch.randint(0, 20, (1, residues))
    with torch.no_grad():
        expected = model(sequence, num_recycles=0)
    with apply(
        model, (sequence,), {"num_recycles": 0}, targets="trunk.blocks.*", memory_budget=0.8
    ) as fast:
        found = fast(sequence, num_recycles=0)
        torch.testing.assert_close(found.s_z, expected.s_z, rtol=1e-3, atol=1e-3)
        print(fast.explain())
    return fast  # out of the with block the model is as it was


if __name__ == "__main__":
    main()
