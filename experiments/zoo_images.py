"""Families of images and video for :mod:`experiments.zoo`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from experiments import families
from experiments.zoo_parts import (
    IMAGE,
    LATENTS,
    Family,
    clip,
    diffuser,
    family,
    half,
    image,
    latent,
    net,
    pixels,
    prompted,
    transformer,
)

_SAM: Mapping[str, Any] = MappingProxyType({
    "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "image_size": 32,
    "num_attention_heads": 4, "patch_size": 4, "window_size": 3, "global_attn_indexes": [1],
    "mlp_dim": 64, "num_pos_feats": 8,
})  # fmt: skip
_PYRAMID: Mapping[str, Any] = MappingProxyType({
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [4, 1], "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
})  # fmt: skip
_BLOCKS: Mapping[str, Any] = MappingProxyType({
    "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4,
})  # fmt: skip
_NOISE, _VIDEO = latent("hidden_states", 1, 4), latent("hidden_states", 1, 4, 3)
_POOLED = torch.linspace(-1, 1, 24)[None]


def _flat(name: str, frames: int, **more: Any) -> Any:
    """A latent of patches in a row, ``length`` squared a frame, 8 wide."""

    def noise(length: int, source: torch.Generator) -> dict[str, Any]:
        return {name: torch.randn(1, frames * length * length, 8, generator=source)}

    return prompted(noise, **more)


def _ltx(length: int, source: torch.Generator) -> dict[str, Any]:
    sizes = {"num_frames": 2, "height": length, "width": length}
    mask = torch.ones(1, 8)
    given: dict[str, Any] = _flat("hidden_states", 2)(length, source)
    return {**given, **sizes, "encoder_attention_mask": mask}


def _qwen(length: int, source: torch.Generator) -> dict[str, Any]:
    given: dict[str, Any] = _flat("hidden_states", 1, timestep=torch.tensor([0.5]))(length, source)
    mask = torch.ones(1, 8, dtype=torch.int64)
    return {**given, "encoder_hidden_states_mask": mask, "img_shapes": [(1, length, length)]}


def _flux(length: int, source: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, length, 8, generator=source),
        "encoder_hidden_states": torch.randn(1, 8, 32, generator=source),
        "pooled_projections": _POOLED,
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.arange(length * 3).reshape(length, 3) % 7 * 1.0,
        "txt_ids": torch.zeros(8, 3),
    }


def _pointed(length: int, source: torch.Generator) -> dict[str, Any]:
    return {**pixels(length, source), "input_points": torch.tensor([[[[5.0, 7.0]]]])}


IMAGE_FAMILIES: Mapping[str, Family] = MappingProxyType({
    # transformers of images and clips
    "clip_vision": image("clip_vision_model"),
    "siglip": image("siglip_vision_model"),
    "dinov2": image("dinov2", lengths=(32, 48)),
    "beit": image("beit", use_relative_position_bias=True),
    "swin": Family(partial(families.swin, width=16, depths=(2, 2), heads=(2, 4), window=4,
                           patch=2, image=32), (32, 48)),
    "swinv2": family(partial(transformer, "swinv2", image_size=32, patch_size=2, embed_dim=16,
                             depths=[2], num_heads=[2], window_size=4), pixels, (32, 32)),
    "segformer": net("segformer", **_PYRAMID),
    "pvt": net("pvt_v2", **_PYRAMID),
    "hiera": net("hiera", lengths=(32, 32), embed_dim=16, image_size=[32, 32], patch_size=[7, 7],
                 patch_stride=[4, 4], patch_padding=[3, 3], depths=[1, 1], num_heads=[1, 2],
                 masked_unit_size=[4, 4], num_query_pool=1),
    "vitdet": family(partial(transformer, "vitdet", hidden_size=32, num_hidden_layers=2,
                             num_attention_heads=4, image_size=32, patch_size=4, mlp_ratio=2,
                             window_block_indices=[0], window_size=3,
                             use_relative_position_embeddings=True, pretrain_image_size=32),
                     pixels, (32, 32)),
    "sam_vision": family(partial(transformer, "sam_vision_model", **_SAM), pixels, (32, 32)),
    "sam_full": family(partial(transformer, "sam", vision_config=dict(_SAM),
                               prompt_encoder_config={"hidden_size": 16, "image_size": 32,
                                                      "patch_size": 4, "mask_input_channels": 8},
                               mask_decoder_config={"hidden_size": 16, "mlp_dim": 32,
                                                    "num_attention_heads": 4,
                                                    "iou_head_hidden_dim": 16}),
                       _pointed, (32, 32)),
    "detr": family(partial(transformer, "detr", d_model=32, encoder_layers=1, decoder_layers=1,
                           encoder_attention_heads=4, decoder_attention_heads=4,
                           encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10,
                           use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
                           backbone_config={"model_type": "resnet", "embedding_size": 8,
                                            "hidden_sizes": [8, 16], "depths": [1, 1],
                                            "out_features": ["stage2"]}), pixels, (64, 96)),
    "videomae": family(partial(transformer, "videomae", num_frames=4, tubelet_size=2, **IMAGE),
                       clip, (32, 32)),
    "timesformer": family(partial(transformer, "timesformer", num_frames=4, **IMAGE), clip,
                          (32, 32)),
    # convolutions
    "convnext": net("convnext", hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
    "convnextv2": net("convnextv2", hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
    "resnet": net("resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "poolformer": net("poolformer", hidden_sizes=[8, 16], depths=[1, 1], patch_sizes=[7, 3],
                      strides=[4, 2], padding=[2, 1], num_encoder_blocks=2),
    # diffusion: transformers and networks
    "dit": Family(partial(families.dit, layers=2, heads=2, head_width=16, groups=8, sample=16),
                  (16, 16)),
    "pixart": Family(partial(families.pixart, layers=2, heads=2, head_width=16, context_width=32,
                             context=8, groups=8, sample=16), (16, 22)),
    "sd3": family(partial(diffuser, "SD3Transformer2DModel", sample_size=16, num_layers=1,
                          joint_attention_dim=32, caption_projection_dim=32,
                          pooled_projection_dim=24, qk_norm="rms_norm", **LATENTS),
                  prompted(_NOISE, pooled_projections=_POOLED), (16, 22)),
    "flux": family(partial(diffuser, "FluxTransformer2DModel", in_channels=8, num_layers=1,
                           num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                           joint_attention_dim=32, pooled_projection_dim=24,
                           axes_dims_rope=(4, 4, 8)), _flux),
    "qwen_image": family(partial(diffuser, "QwenImageTransformer2DModel", in_channels=8,
                                 out_channels=2, num_layers=2, attention_head_dim=16,
                                 num_attention_heads=2, joint_attention_dim=32,
                                 axes_dims_rope=(4, 6, 6)), _qwen, (7, 9)),
    "sana": family(partial(diffuser, "SanaTransformer2DModel", sample_size=16, num_layers=1,
                           num_cross_attention_heads=2, cross_attention_head_dim=16,
                           cross_attention_dim=32, caption_channels=32, **LATENTS),
                   prompted(_NOISE), (16, 22)),
    "auraflow": family(partial(diffuser, "AuraFlowTransformer2DModel", sample_size=16,
                               num_mmdit_layers=1, num_single_dit_layers=1,
                               joint_attention_dim=32, caption_projection_dim=32,
                               pos_embed_max_size=256, **LATENTS), prompted(_NOISE), (16, 16)),
    "wan": family(partial(diffuser, "WanTransformer3DModel", text_dim=32, freq_dim=16, ffn_dim=64,
                          rope_max_seq_len=32, num_layers=1,
                          **{**LATENTS, "attention_head_dim": 24}), prompted(_VIDEO), (8, 12)),
    "hunyuan_video": family(partial(diffuser, "HunyuanVideoTransformer3DModel", num_layers=1,
                                    num_single_layers=1, num_refiner_layers=1, text_embed_dim=32,
                                    pooled_projection_dim=24, rope_axes_dim=(4, 6, 6), **LATENTS),
                            prompted(latent("hidden_states", 1, 4, 2), pooled_projections=_POOLED,
                                     encoder_attention_mask=torch.tensor([[1] * 6 + [0] * 2]),
                                     guidance=torch.tensor([1000.0])), (8, 12)),
    "cogvideox": family(partial(diffuser, "CogVideoXTransformer3DModel", time_embed_dim=8,
                                text_embed_dim=32, num_layers=2, sample_width=12,
                                sample_height=12, sample_frames=9, max_text_seq_length=8,
                                **LATENTS),
                        prompted(latent("hidden_states", 1, 3, 4)), (12, 12)),
    "ltx": family(partial(diffuser, "LTXVideoTransformer3DModel", in_channels=8, out_channels=8,
                          num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
                          num_layers=2, caption_channels=32), _ltx, (6, 8)),
    "unet3d": family(partial(diffuser, "UNet3DConditionModel", block_out_channels=(16, 32),
                             down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                             up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                             layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
                             attention_head_dim=8), prompted(latent("sample", 1, 4, 3)), (16, 24)),
    # autoencoders
    "vae_decoder": Family(partial(families.vae_decoder, channels=(8, 16), layers=1, groups=4),
                          (12, 17)),
    "vae_encoder": family(partial(half, "AutoencoderKL", "_encode", ("decoder", "post_quant_conv"),
                                  **_BLOCKS), latent("x", 1, 3), (32, 42)),
    "vq_model": family(partial(diffuser, "VQModel", latent_channels=3, num_vq_embeddings=16,
                               **_BLOCKS), latent("sample", 1, 3), (32, 44)),
    "dc_decoder": family(partial(half, "AutoencoderDC", "decode", ("encoder",), latent_channels=4,
                                 attention_head_dim=8,
                                 encoder_block_types=("ResBlock", "EfficientViTBlock"),
                                 decoder_block_types=("ResBlock", "EfficientViTBlock"),
                                 encoder_block_out_channels=(8, 16),
                                 decoder_block_out_channels=(8, 16),
                                 encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
                                 encoder_qkv_multiscales=((), (5,)),
                                 decoder_qkv_multiscales=((), (5,))), latent("z", 1, 4), (12, 18)),
    "wan_vae": family(partial(half, "AutoencoderKLWan", "decode", ("encoder", "quant_conv"),
                              base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1,
                              temperal_downsample=[True], latents_mean=[0.0] * 4,
                              latents_std=[1.0] * 4), latent("z", 1, 4, 2), (8, 12)),
    "cogvideox_vae": family(partial(half, "AutoencoderKLCogVideoX", "decode", ("encoder",),
                                    block_out_channels=(8, 16), latent_channels=4,
                                    down_block_types=("CogVideoXDownBlock3D",) * 2,
                                    up_block_types=("CogVideoXUpBlock3D",) * 2,
                                    layers_per_block=1, norm_num_groups=4,
                                    temporal_compression_ratio=2), latent("z", 1, 4, 2), (8, 12)),
    "ltx_vae": family(partial(half, "AutoencoderKLLTXVideo", "decode", ("encoder",),
                              latent_channels=8, block_out_channels=(8, 16),
                              decoder_block_out_channels=(8, 16), layers_per_block=(1, 1, 1),
                              decoder_layers_per_block=(1, 1, 1),
                              down_block_types=("LTXVideoDownBlock3D",) * 2,
                              downsample_type=("conv", "conv"),
                              spatio_temporal_scaling=(True, False),
                              decoder_spatio_temporal_scaling=(True, False),
                              decoder_inject_noise=(False,) * 3, upsample_residual=(False,) * 2,
                              upsample_factor=(1, 1), patch_size=2), latent("z", 1, 8, 2), (8, 12)),
    "hunyuan_vae": family(partial(half, "AutoencoderKLHunyuanVideo", "decode",
                                  ("encoder", "quant_conv"), latent_channels=4,
                                  block_out_channels=(8, 8, 16, 16), layers_per_block=1,
                                  norm_num_groups=4), latent("z", 1, 4, 2), (6, 8)),
})  # fmt: skip
"""By name, in the order of the page."""
