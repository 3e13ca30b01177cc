"""Models in diffusers: the demo, and small ones of other architectures with random weights."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("diffusers", reason="needs the headless extra: pip install .[headless]")

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LDMTextToImagePipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from small_parts import autoencoder, text_config
from transformers import BertTokenizer, CLIPTextModel, CLIPTextModelWithProjection

from p2p_core.cli import main
from p2p_core.hosts.diffusers.demo import clip_tokenizer
from p2p_core.hosts.diffusers.pipeline import Model

WIDTH = 32


@pytest.fixture
def p2p(monkeypatch, capsys):
    """Runs a command: (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["p2p", *map(str, arguments)])
        try:
            status = main()
        except SystemExit as done:
            status = done.code
        told = capsys.readouterr()
        return status or 0, told.out, told.err

    return run


@pytest.fixture(scope="session")
def demo():
    return Model.demo()


@pytest.fixture(scope="session")
def sd2():
    """v-prediction, linear projections."""
    torch.manual_seed(0)
    return Model(
        StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=CLIPTextModel(text_config(WIDTH, 4)).eval(),
            tokenizer=clip_tokenizer(),
            unet=_unet(cross_attention_dim=WIDTH),
            scheduler=_scheduler("v_prediction"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


@pytest.fixture(scope="session")
def sdxl():
    """Two text encoders, pooled vectors, no cross-attention at the latent's own side."""
    torch.manual_seed(1)
    return Model(
        StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=CLIPTextModel(text_config(WIDTH, 4)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(text_config(WIDTH, 4)).eval(),
            tokenizer=clip_tokenizer(),
            tokenizer_2=clip_tokenizer(),
            unet=_unet(
                cross_attention_dim=2 * WIDTH,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=WIDTH + 6 * 8,
            ),
            scheduler=_scheduler("epsilon"),
            add_watermarker=False,
        )
    )


@pytest.fixture(scope="session")
def ldm():
    """Latent diffusion with its BERT encoder, whose tokenizer makes words of pieces."""
    torch.manual_seed(2)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    words = ["a", "red", "star", "on", "the", "night", "big", "circ", "##le", "gr", "##ass", ","]
    pieces = [*special, *letters, *(f"##{one}" for one in letters), *words]
    bert = LDMBertConfig(
        vocab_size=len(pieces),
        encoder_layers=2,
        encoder_ffn_dim=2 * WIDTH,
        encoder_attention_heads=4,
        head_dim=8,
        d_model=WIDTH,
    )
    return Model(
        LDMTextToImagePipeline(
            vqvae=autoencoder(),
            bert=LDMBertModel(bert).eval(),
            tokenizer=BertTokenizer(vocab={one: n for n, one in enumerate(dict.fromkeys(pieces))}),
            unet=_unet(cross_attention_dim=WIDTH),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=True,
                timestep_spacing="leading",
            ),
        )
    )


@pytest.fixture(params=["demo", "sd2", "sdxl"])
def model(request):
    return request.getfixturevalue(request.param)


def _unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **{
            "sample_size": 16,
            "block_out_channels": (WIDTH, 2 * WIDTH),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "use_linear_projection": True,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            **more,
        }
    ).eval()


def _scheduler(prediction: str) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        timestep_spacing="leading",
        steps_offset=1,
    )
