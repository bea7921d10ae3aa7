"""A transformers encoder in half of its memory: ``python docs/examples/transformers_encoder.py``

Random weights stand in for ``BertModel.from_pretrained(...)``, so that nothing is downloaded.
"""

from __future__ import annotations

import torch
from transformers import BertConfig, BertModel

from tuner import Applied, apply


def main(length: int = 256) -> Applied:
    """Apply a plan, compare, and run another length with the same capture."""
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        vocab_size=1000,
        attn_implementation="eager",
    )
    model = BertModel(config).eval()
    batch = {
        "input_ids": torch.randint(0, 1000, (2, length)),
        "attention_mask": torch.ones(2, length, dtype=torch.long),
    }

    # no tuning: an analytic choice. With a tuned database: plans="plans/"
    fast = apply(model, (), batch, memory_budget=0.5)

    with torch.inference_mode():
        output = fast(**batch)  # a BaseModelOutput, as from the model itself
        torch.testing.assert_close(output.last_hidden_state, model(**batch).last_hidden_state)

        shorter = {name: tensor[:, : length - 3] for name, tensor in batch.items()}
        torch.testing.assert_close(fast(**shorter)[0], model(**shorter)[0])
    print(fast.explain())
    return fast


if __name__ == "__main__":
    main()
