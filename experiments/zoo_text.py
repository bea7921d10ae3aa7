"""Families of text and sound for :mod:`experiments.zoo`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from experiments import families
from experiments.zoo_parts import (
    BOTH,
    EXPERTS,
    LENGTHS,
    TEXT,
    WAVES,
    Family,
    causal,
    decoded,
    family,
    masked_tokens,
    sound,
    spectrum,
    text,
    tokens,
    transformer,
)

_MIXTRAL: Mapping[str, Any] = MappingProxyType({
    "layers": 2, "width": 32, "heads": 4, "key_heads": 2, "intermediate": 64, "experts": 4,
    "vocabulary": 100,
})  # fmt: skip

TEXT_FAMILIES: Mapping[str, Family] = MappingProxyType({
    # encoders
    "roberta": text("roberta", masked_tokens),
    "albert": text("albert", embedding_size=16),
    "electra": text("electra", embedding_size=16),
    "distilbert": family(partial(transformer, "distilbert", dim=32, n_heads=4, n_layers=2,
                                 hidden_dim=64, vocab_size=100, max_position_embeddings=160),
                         masked_tokens),
    "deberta": text("deberta-v2", masked_tokens, relative_attention=True,
                    pos_att_type=["p2c", "c2p"], position_buckets=16),
    "modernbert": text("modernbert", masked_tokens, local_attention=16),
    "longformer": text("longformer", attention_window=[8, 8], max_position_embeddings=200),
    "bigbird": text("big_bird", lengths=(96, 104), block_size=8, num_random_blocks=1),
    "bigbird_full": text("big_bird", attention_type="original_full"),
    "nystromformer": text("nystromformer", lengths=(48, 48), num_landmarks=8,
                          segment_means_seq_len=48),
    "funnel": family(partial(transformer, "funnel", architectures=["FunnelModel"],
                             d_model=32, n_head=4, d_head=8, d_inner=64,
                             block_sizes=[1, 1], block_repeats=[1, 1],
                             vocab_size=100), tokens, (48, 60)),
    "canine": text("canine", lengths=(64, 96), local_transformer_stride=16, num_hash_buckets=128,
                   downsampling_rate=4, upsampling_kernel_size=4),
    "fnet": family(partial(transformer, "fnet", hidden_size=32, num_hidden_layers=2,
                           intermediate_size=64, vocab_size=100, max_position_embeddings=160,
                           tpu_short_seq_length=160), tokens),
    "xlnet": family(partial(transformer, "xlnet", d_model=32, n_head=4, n_layer=2, d_inner=64,
                            vocab_size=100), tokens),
    "esm2": text("esm", position_embedding_type="rotary", token_dropout=False, mask_token_id=3),
    "clip_text": text("clip_text_model"),
    "perceiver": family(partial(transformer, "perceiver", num_latents=16, d_latents=32, d_model=24,
                                num_blocks=1, num_self_attends_per_block=2,
                                num_self_attention_heads=4, num_cross_attention_heads=4),
                        lambda n, g: {"inputs": torch.randn(1, n, 24, generator=g)}),
    # decoders
    "gpt_neox": text("gpt_neox"),
    "phi": text("phi"),
    "bloom": family(partial(transformer, "bloom", hidden_size=32, n_layer=2, n_head=4,
                            vocab_size=100, use_cache=False), tokens),
    "falcon": family(partial(transformer, "falcon", hidden_size=32, num_hidden_layers=2,
                             num_attention_heads=4, vocab_size=100, use_cache=False), tokens),
    "falcon_alibi": family(partial(transformer, "falcon", hidden_size=32, num_hidden_layers=2,
                                   num_attention_heads=4, vocab_size=100, use_cache=False,
                                   alibi=True), tokens),
    "mpt": family(partial(transformer, "mpt", d_model=32, n_heads=4, n_layers=2,
                          expansion_ratio=2, vocab_size=100, max_seq_len=160, use_cache=False),
                  tokens),
    "mistral": causal("mistral", sliding_window=16),
    "gemma2": causal("gemma2", sliding_window=16, query_pre_attn_scalar=8),
    "gemma3": causal("gemma3_text", sliding_window=16, query_pre_attn_scalar=8),
    "cohere": causal("cohere"),
    "olmo2": causal("olmo2"),
    "phi3": causal("phi3"),
    # mixtures of experts
    "mixtral": Family(partial(families.mixtral, **_MIXTRAL), LENGTHS),
    "mixtral_grouped": Family(
        partial(families.mixtral, experts_by="grouped_mm", **_MIXTRAL), LENGTHS
    ),
    "mixtral_loop": Family(partial(families.mixtral, experts_by="eager", **_MIXTRAL), LENGTHS),
    "gpt_oss": causal("gpt_oss", num_local_experts=4, num_experts_per_tok=2, sliding_window=16),
    "granite_moe": causal("granitemoe", num_local_experts=4, num_experts_per_tok=2),
    "olmoe": causal("olmoe", num_experts=4, num_experts_per_tok=2),
    "qwen3_moe": causal("qwen3_moe", **EXPERTS),
    "qwen3_next": causal("qwen3_next", linear_num_value_heads=4, linear_num_key_heads=2,
                         linear_key_head_dim=8, linear_value_head_dim=8,
                         shared_expert_intermediate_size=32,
                         layer_types=["linear_attention", "full_attention"], **EXPERTS),
    "deepseek_v3": causal("deepseek_v3", q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
                          qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=1,
                          topk_group=1, num_experts_per_tok=2, moe_intermediate_size=32,
                          first_k_dense_replace=1, num_key_value_heads=4),
    # recurrences
    "mamba": family(partial(transformer, "mamba", hidden_size=32, num_hidden_layers=2,
                            state_size=8, vocab_size=100, use_cache=False), tokens),
    "mamba2": family(partial(transformer, "mamba2", hidden_size=32, num_hidden_layers=2,
                             state_size=8, head_dim=8, num_heads=8, n_groups=2, chunk_size=16,
                             vocab_size=100, use_cache=False), tokens),
    "rwkv": family(partial(transformer, "rwkv", hidden_size=32, num_hidden_layers=2,
                           attention_hidden_size=32, vocab_size=100, use_cache=False),
                   tokens, (16, 21)),
    # encoders with decoders
    "t5": Family(partial(families.t5, layers=2, width=32, heads=4, intermediate=64,
                         vocabulary=100), LENGTHS),
    "bart": family(partial(transformer, "bart", **BOTH), decoded(tokens)),
    "switch": family(partial(transformer, "switch_transformers", d_model=32, d_kv=8, d_ff=64,
                             num_layers=2, num_heads=4, num_experts=4, vocab_size=100,
                             num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
                     decoded(tokens)),
    # sound
    "whisper": family(partial(transformer, "whisper", "encoder", num_mel_bins=80,
                              max_source_positions=48, max_target_positions=40, **BOTH),
                      spectrum, (48, 48)),
    "whisper_full": family(partial(transformer, "whisper", num_mel_bins=80,
                                   max_source_positions=48, max_target_positions=40, **BOTH),
                           decoded(spectrum), (48, 48)),
    "wav2vec2": family(partial(transformer, "wav2vec2", **WAVES), sound, (20, 27)),
    "hubert": family(partial(transformer, "hubert", **WAVES), sound, (20, 27)),
    "encodec": family(partial(transformer, "encodec", "encoder", num_filters=8, hidden_size=16,
                              codebook_dim=16, upsampling_ratios=[4, 2], num_lstm_layers=1),
                      lambda n, g: {"hidden_states": torch.randn(1, 1, 16 * n, generator=g)},
                      (20, 27)),
    "ast": family(partial(transformer, "audio-spectrogram-transformer", max_length=64,
                          num_mel_bins=32, patch_size=8,
                          **{key: TEXT[key] for key in ("hidden_size", "num_hidden_layers",
                                                        "num_attention_heads",
                                                        "intermediate_size")}),
                  lambda n, g: {"input_values": torch.randn(1, n, 32, generator=g)}, (64, 64)),
})  # fmt: skip
"""By name, in the order of the page."""
