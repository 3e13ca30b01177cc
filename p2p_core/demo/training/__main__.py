"""Train a demo model.

    python -m p2p_core.demo.training                  # the UNet: autoencoder, then UNet and text
    python -m p2p_core.demo.training --model mmdit    # the small Flux, on the UNet's autoencoder
                                                      # and text encoder, which stay as they are

Each resumes where an earlier run stopped; runs on a GPU if there is one. The same seed gives the
same weights on the same machine. Needs `pip install .[train]` (diffusers, transformers,
open-clip-torch for CLIP's BPE).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from ..architecture import WEIGHTS
from ..joint_networks import JointGenerator, export_transformer, fill_transformer
from ..networks import Captions, Generator, build_autoencoder, export, load_checkpoint
from . import diffusion, flow
from .autoencoder import train_autoencoder
from .generator import Task, train_generator
from .loop import DEVICE, cosine, plateau
from .world import World


def train_unet(options: argparse.Namespace) -> None:
    """Train the autoencoder, then UNet and text encoder together, and write an SD1.x-style file."""
    out, captions = options.out, Captions()
    if options.start_from:
        autoencoder, generator = load_checkpoint(options.start_from, captions)
    else:
        autoencoder, generator = build_autoencoder(), Generator(len(captions.used))
    autoencoder = train_autoencoder(
        autoencoder, out, options.autoencoder_steps, options.autoencoder_peak, options.seed
    )
    if options.stage == "autoencoder":
        return
    world = World(autoencoder, captions, out, options.scenes, options.seed)
    task = Task(
        name="generator",
        model=generator.to(DEVICE),
        noised=diffusion.noised,
        sample=diffusion.sample_latents,
        export=lambda model: export(out, autoencoder, model, captions, world.statistics),
        schedule=cosine,
    )
    train_generator(task, world, out, options)


def train_mmdit(options: argparse.Namespace) -> None:
    """Train the transformer alone, and write one Flux-style file of it."""
    out, captions = options.out, Captions()
    autoencoder, first = load_checkpoint(WEIGHTS, captions)
    autoencoder = autoencoder.to(DEVICE, memory_format=torch.channels_last).eval()
    model = JointGenerator(first.text)
    if options.start_from:
        fill_transformer(options.start_from, model.transformer)
    task = Task(
        name="mmdit",
        model=model.to(DEVICE),
        noised=flow.noised,
        sample=flow.sample_latents,
        export=lambda model: export_transformer(out, model.transformer),
        schedule=plateau,
    )
    world = World(autoencoder, captions, out, options.scenes, options.seed, normalised=True)
    train_generator(task, world, out, options)


MODELS = {
    "unet": (train_unet, Path("output/train")),
    "mmdit": (train_mmdit, Path("output/train-mmdit")),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m p2p_core.demo.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=tuple(MODELS), default="unet")
    parser.add_argument(
        "--out", type=Path, help="where checkpoints and sheets go; output/train[-mmdit] by default"
    )
    parser.add_argument(
        "--stage", choices=("all", "autoencoder"), default="all", help="of the UNet's"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=2500)
    parser.add_argument("--autoencoder-peak", type=float, default=1.5e-3, help="learning rate")
    parser.add_argument("--generator-steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=1e-3, help="the generator's learning rate")
    parser.add_argument(
        "--start-from",
        type=Path,
        help="train this checkpoint on instead of starting from nothing",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train, folder = MODELS[options.model]
    options.out = options.out or folder
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    train(options)


if __name__ == "__main__":
    main()
