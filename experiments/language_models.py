"""Models of text: GPT-2, Llama, Qwen3 and BERT as transformers has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from experiments.weights import Subject, redraw_zeros


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
    return _causal(LlamaForCausalLM, config, batch, logits)


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
    return _causal(Qwen3ForCausalLM, config, batch, logits)


def _causal(
    make: Callable[[Any], torch.nn.Module], config: Any, batch: int, logits: str
) -> Subject:
    """A causal model of a configuration, and its inputs; ``logits`` as :func:`llama` has them."""
    if logits not in ("all", "last"):
        raise ValueError(f"logits must be 'all' or 'last', got {logits!r}")
    kept = {"logits_to_keep": 1} if logits == "last" else {}
    torch.manual_seed(0)
    model = redraw_zeros(make(config).eval())

    def inputs(length: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(0, config.vocab_size, (batch, length), generator=generator)
        return (ids,), {"use_cache": False, **kept}

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
