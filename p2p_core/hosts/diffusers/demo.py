"""The demo model as a Stable Diffusion pipeline of diffusers."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from ...demo.architecture import CONFIG, WEIGHTS
from ...demo.networks import build_autoencoder, build_text_encoder, build_unet, fill


def load_demo(path: Path = WEIGHTS) -> StableDiffusionPipeline:
    """Read the demo checkpoint; raises `ValueError` if it is missing."""
    if not path.is_file():
        raise ValueError(
            f"Expected the demo model at {path}, which does not exist. Reinstall this package: the "
            "file ships with it."
        )
    unet, autoencoder = build_unet(), build_autoencoder()
    text = build_text_encoder(CONFIG["text"]["vocabulary"])
    fill(path, unet, autoencoder, text)
    return assembled(unet, autoencoder, text, "v_prediction")


def assembled(unet: Any, autoencoder: Any, text: Any, prediction: str) -> StableDiffusionPipeline:
    """Assemble the parts to a pipeline with SD1.x's noise schedule and tokenizer."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction,  # pyright: ignore[reportArgumentType]
    )
    return StableDiffusionPipeline(
        vae=autoencoder.eval(),
        text_encoder=text.eval(),
        tokenizer=clip_tokenizer(),
        unet=unet.eval(),
        scheduler=scheduler,  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """Load CLIP's tokenizer of 77 tokens; its vocabulary is the one that open_clip ships."""
    bpe = SimpleTokenizer()
    merges = [pair for pair, _ in sorted(bpe.bpe_ranks.items(), key=lambda ranked: ranked[1])]
    words = dict(bpe.encoder)
    for ours, theirs in (
        ("<start_of_text>", "<|startoftext|>"),
        ("<end_of_text>", "<|endoftext|>"),
    ):
        words[theirs] = words.pop(ours)
    return CLIPTokenizer(vocab=words, merges=merges, model_max_length=CONFIG["text"]["tokens"])
