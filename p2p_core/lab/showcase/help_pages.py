"""Make the pictures of the nodes' help pages, web/docs/*.jpg, from real runs with the demo model.

python -m p2p_core.lab.showcase.help_pages
python -m p2p_core.lab.showcase.help_pages P2P_Mix
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...demo.scenes import render, sample_scene
from ...hosts.launch.locate import ROOT, find_hosts
from ...hosts.launch.server import Server
from .studio import Link, Request, Studio
from .templates import Pictures, read, run, strip

FOLDER = ROOT / "web" / "docs"
HEIGHT = 128
PROMPT, SEED = "a red circle on the grass", 12
"""As in workflows/1_word_swap.json."""

BLUE: Link = ("P2P_WordSwap", {"words": "red", "replacement": "blue"})
STAR: Link = ("P2P_WordSwap", {"words": "circle", "replacement": "star"})
STRIPED: Link = ("P2P_Refine", {"edited_prompt": "a striped red circle on the grass"})

Row = list[np.ndarray]


@dataclass(frozen=True)
class Desk:
    """A server, and what takes pictures on it."""

    server: Server
    studio: Studio

    def edits(self, *links: Link, reprompt: str | None = None) -> Row:
        """Take the source image, an edit for each link, and the re-prompted one if asked."""
        shot = self.studio.shoot(Request(PROMPT, [[link] for link in links], 1, SEED, reprompt))
        return [*shot["source"], *shot["p2p"], *shot.get("reprompt", [])]

    def compared(self, link: Link) -> Row:
        """Take the source image, an edit, and four times their difference."""
        source, edited = self.edits(link)
        difference = np.abs(source.astype(int) - edited.astype(int)) * 4
        return [source, edited, difference.clip(0, 255).astype(np.uint8)]

    def samples(self, *prompts: str) -> Row:
        """Take a picture of each prompt."""
        nothing: Link = ("P2P_Reweight", {"words": "a: 1"})
        return [
            self.studio.shoot(Request(one, [[nothing]], 1, SEED))["source"][0] for one in prompts
        ]

    def weighed(self, prompt: str, *words: str) -> Row:
        """Take a picture of the prompt for each list of words with their factors."""
        return [self.picture(prompt, some) for some in words]

    def picture(self, prompt: str, words: str) -> np.ndarray:
        """Take a picture of a prompt with word weights by the stock sampler."""
        graph = {
            "demo": {"class_type": "P2P_DemoCheckpoint", "inputs": {}},
            "weigh": {
                "class_type": "P2P_WordWeights",
                "inputs": {"model": ["demo", 0], "clip": ["demo", 1], "prompt": prompt}
                | {"words": words},
            },
            "none": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["demo", 1], "text": ""}},
            "empty": {
                "class_type": "EmptyLatentImage",
                "inputs": {"width": 128, "height": 128, "batch_size": 1},
            },
            "sample": {
                "class_type": "KSampler",
                "inputs": {
                    "model": ["weigh", 0],
                    "positive": ["weigh", 1],
                    "negative": ["none", 0],
                    "latent_image": ["empty", 0],
                    "seed": SEED,
                    "steps": 30,
                    "cfg": 3.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                    "denoise": 1.0,
                },
            },
            "decode": {
                "class_type": "VAEDecode",
                "inputs": {"samples": ["sample", 0], "vae": ["demo", 2]},
            },
            "save": {
                "class_type": "SaveImage",
                "inputs": {"images": ["decode", 0], "filename_prefix": "p2p_weighed"},
            },
        }
        (picture,) = self.server.images(self.server.queue(graph))
        return np.asarray(picture.convert("RGB"))

    def workflow(self, name: str) -> Pictures:
        """Take the pictures that a shipped workflow saves."""
        return run(self.server, read(name, self.studio.nodes))


def mixed(degree: float) -> Link:
    return "P2P_Mix", {**BLUE[1], "degree": degree}


def shown(name: str, *kinds: str) -> Callable[[Desk], Row]:
    """Pictures of these kinds of a shipped workflow."""

    def look(desk: Desk) -> Row:
        pictures = desk.workflow(name)
        return [one for kind in kinds for one in pictures[kind]][:3]

    return look


def drawn(_: Desk) -> Row:
    return [render(sample_scene(random.Random(number))) for number in (10, 11, 9)]


PAGES: Mapping[str, Callable[[Desk], Row]] = {
    "P2P_AttentionMaps": shown("5_attention_maps", "heatmaps"),
    "P2P_Compare": lambda desk: desk.compared(BLUE),
    "P2P_Controller": lambda desk: desk.edits(BLUE, STAR),
    "P2P_DemoCheckpoint": lambda desk: desk.samples(
        PROMPT, "a striped blue square on sand", "a yellow star at night"
    ),
    "P2P_DemoImage": drawn,
    "P2P_Guider": lambda desk: desk.edits(STAR),
    "P2P_KSampler": lambda desk: desk.edits(BLUE, reprompt="a blue circle on the grass"),
    "P2P_KSamplerAdvanced": lambda desk: desk.edits(STRIPED),
    "P2P_LoadInversion": shown("6_real_image", "given", "p2p"),
    "P2P_LocalBlend": shown("4_local_blend", "source", "p2p", "mask"),
    "P2P_Mix": lambda desk: desk.edits(mixed(0.5), mixed(1.0)),
    "P2P_NullTextInversion": shown("6_real_image", "given", "source", "p2p"),
    "P2P_Refine": lambda desk: desk.edits(STRIPED),
    "P2P_Reweight": shown("3_reweight", "source", "p2p"),
    "P2P_SampleSource": lambda desk: desk.edits(STAR, STRIPED),
    "P2P_SaveInversion": shown("6_real_image", "given", "source"),
    "P2P_WordSwap": lambda desk: desk.edits(BLUE, STAR),
    "P2P_WordWeights": lambda desk: desk.weighed(
        "a striped red circle on the grass", "striped: 1", "striped: 0.5", "striped: -1"
    ),
}
"""What each page shows, side by side."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help=f"pages, else all: {', '.join(PAGES)}")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with Server(find_hosts()[0]) as server:
        desk = Desk(server, Studio(server))
        for page in options.pages or PAGES:
            strip(PAGES[page](desk), HEIGHT).save(options.out / f"{page}.jpg", quality=88)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
