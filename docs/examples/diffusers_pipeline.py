"""A diffusers pipeline that runs plans: ``python docs/examples/diffusers_pipeline.py``

Random weights stand in for ``StableDiffusionPipeline.from_pretrained(...)``, so that nothing is
downloaded. An applied model takes the place of the model it was made of: attributes such as
``config`` and ``dtype``, ``to()`` and ``state_dict()`` answer as before. Large images want the same
for ``pipeline.vae.decoder``, which is called with ``(latents, None)``.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from tuner import apply


def small_pipeline() -> Any:
    """Stable Diffusion's parts, very small; prompts are given as embeddings."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32,),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    vae = AutoencoderKL(
        block_out_channels=(16,),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    )
    parts = {"unet": unet.eval(), "vae": vae.eval(), "scheduler": DDIMScheduler()}
    unet.set_attn_processor(AttnProcessor())  # attention that keeps its scores, as it once was
    nothing = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    return StableDiffusionPipeline(
        **parts, **dict.fromkeys(nothing), requires_safety_checker=False
    )


def main(steps: int = 2) -> Any:
    """Draw an image with and without plans, and compare."""
    pipeline = small_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    prompt = torch.randn(1, 7, 16)

    def draw() -> torch.Tensor:
        image: torch.Tensor = pipeline(
            prompt_embeds=prompt,
            negative_prompt_embeds=torch.zeros_like(prompt),
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        return image

    expected = draw()
    latents = torch.randn(2, 4, 16, 16)
    pipeline.unet = apply(
        pipeline.unet,
        (latents, torch.tensor(1)),
        {
            "encoder_hidden_states": torch.randn(2, 7, 16),
            "timestep_cond": None,
            "cross_attention_kwargs": None,
            "added_cond_kwargs": None,
            "return_dict": False,
        },
        memory_budget=0.5,
    )
    torch.testing.assert_close(draw(), expected, rtol=1e-3, atol=1e-3)
    print(pipeline.unet.explain())
    return pipeline


if __name__ == "__main__":
    main()
