"""InfEdit, a row of PIE-Bench's table: Xu et al. 2024, *Inversion-Free Image Editing with Natural
Language*.

Nothing is inverted. At every level the image is noised anew, and by what its own prediction misses
it, the edited one's is corrected (virtual inversion). The image, a layout and the edited image
share attention (unified attention control): the layout is the image in the edited one's outlines,
and what the edit is to leave alone comes from it. As the authors' run_pie_bench.py does it, of one
image and one edit. To compare with.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import LCMScheduler
from torch import Tensor
from tqdm import tqdm

from ...hosts.diffusers.attention import (
    cross_attention_sides,
    plain_attention,
    project_in,
    project_out,
    replaced,
)
from ...hosts.diffusers.pipeline import Model
from ...hosts.diffusers.sampling import Result, Settings
from ...inversion.task import Embedding, c_in
from ...local_blend import chosen_side
from ...matching import matching
from ..peers.explicit import by_maps

THRESHOLD, EARLY = 0.55, 0.15
"""Of its largest value, what a word's map is above where the word is; in the beginning, when there
is little to see, `EARLY` / √ᾱ if that is more."""
TRAINED = 50
"""Steps of the schedule that latent consistency models are distilled on."""

IMAGE, EDITED, LAYOUT = range(3)
FOLLOWING = ((IMAGE, IMAGE, IMAGE), (IMAGE, IMAGE, IMAGE), (IMAGE, EDITED, IMAGE))
FREE = ((IMAGE, EDITED, EDITED), (IMAGE, EDITED, IMAGE), (IMAGE, EDITED, IMAGE))
"""Whose queries, keys and values the self-attention of image, edited and layout takes."""


@dataclass(frozen=True)
class Words:
    """Tokens of the edited prompt, and whose attention each takes (`get_mapper` of their code).

    `source`, long[tokens], is the source's token that a token stands for; `shared`, float[tokens],
    1 where there is one; `blended`, bool[tokens], the tokens that the edit is kept to.
    """

    source: Tensor
    shared: Tensor
    blended: Tensor

    @classmethod
    def of(cls, model: Model, prompt: str, edited: str, blended: Sequence[str]) -> Words:
        """Align two prompts, `blended` being words of the second.

        In each run of new tokens, the one that is most like a token which it takes the place of has
        that one's attention.

        (Likeness is measured as the authors' code does, each token's number in the one prompt being
        looked up among the embeddings of the other.)
        """
        _, after = model.read(prompt), model.read(edited)  # raises for those that are too long
        tokenizer, length = model.pipeline.tokenizer, model.length
        theirs, ours = (tokenizer(text)["input_ids"] for text in (prompt, edited))
        states = F.normalize(model.encode([prompt, edited]).tokens.float(), dim=-1)
        likeness = states[0] @ states[1].T
        source = torch.arange(length)
        shared, marked = torch.ones(length), torch.zeros(length, dtype=torch.bool)
        shared[: len(ours)] = 0
        pairs = matching(theirs, ours)
        for i, j in pairs:
            source[j], shared[j] = i, 1
        wanted = {token for word in blended for token in tokenizer(word)["input_ids"]}
        for (i, j), (k, n) in pairwise(pairs):
            if n - j > 1 and k - i > 1:
                best = int(likeness[j + 1 : n, i + 1 : k].argmax())
                new, old = j + 1 + best // (k - i - 1), i + 1 + best % (k - i - 1)
                source[new], shared[new] = old, 1
                marked[new] = theirs[old] in wanted
        for word in blended:
            marked[after.tokens_of(word)] = True
        return cls(*(one.to(model.device) for one in (source, shared, marked)))


class Control:
    """The attention that is taken in the step under way, and where blended words have been seen.

    `layer` is (height, width) of the layers looked at; `seen` sums their maps of the edited
    prompt's tokens over layers and steps: float32[pixels tokens].
    """

    def __init__(self, words: Words, layer: tuple[int, int]) -> None:
        self.words, self.layer = words, layer
        self.looking = bool(words.blended.any())
        self.cross = self.own = True
        self.seen = torch.zeros(())

    def cross_attention(self, maps: Tensor) -> None:
        """Look at maps of all rows, float[rows·heads pixels tokens], and put in what is taken."""
        _, edited, layout = maps[len(maps) // 2 :].chunk(3)
        looking = self.looking and maps.shape[1] == self.layer[0] * self.layer[1]
        if not (looking or self.cross):
            return
        shared = self.words.shared.to(maps.dtype)
        taken = layout[..., self.words.source] * shared + edited * (1 - shared)
        if looking:
            self.seen = self.seen + taken.float().mean(0)
        if self.cross:
            edited.copy_(taken)

    def rows(self) -> Iterator[list[int]]:
        """Choose the rows of queries, keys and values, negative texts' batch first."""
        for three in FOLLOWING if self.own else FREE:
            yield [start + row for start in (0, 3) for row in three]


class Processor:
    """An attention layer under a `Control`."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        control, text = self.control, encoder_hidden_states
        if text is not None:
            return by_maps(attn, hidden_states, text, attention_mask, control.cross_attention)
        parts = zip(project_in(attn, hidden_states), control.rows(), strict=True)
        q, k, v = (part[rows] for part, rows in parts)
        return project_out(attn, plain_attention(attn.heads, q, k, v))


@torch.no_grad()
def infedit(
    model: Model,
    prompt: str,
    edited: str,
    latent: Tensor,
    settings: Settings,
    *,
    negative: str = "",
    words: Sequence[str] = (),
    cross_end: float = 0.7,
    self_end: float = 0.7,
    quiet: bool = False,
) -> Result:
    """Edit an image, its latent being float[1 channels height width], to the prompt `edited`.

    `words` of that prompt keep the edit to where they are. Until `cross_end` and `self_end`,
    fractions of the steps, the image's cross- and self-attention is taken. Of `settings`, steps,
    cfg and seed count. Raises `ValueError` for prompts that are too long, words that are not there,
    more steps than `TRAINED`, and several images.
    """
    if len(latent) != 1:
        raise ValueError(f"Expected one image, got {len(latent)}. Edit them one by one.")
    control = Control(Words.of(model, prompt, edited, words), _layer(model, latent))
    image, device = latent.to(model.device) * model.scale, model.device
    text = model.encode([negative, negative, negative, prompt, edited, prompt])
    generator = torch.Generator().manual_seed(settings.seed)

    def noise() -> Tensor:
        return torch.randn(latent.shape, generator=generator).to(device)

    timesteps = _timesteps(model, settings.steps)
    sigmas = [float(model.levels[t]) for t in timesteps]
    x = (noise() / c_in(sigmas[0])).repeat(3, 1, 1, 1)
    found, mask = x, torch.ones(latent.shape[-2:], dtype=torch.bool)
    with replaced(model.pipeline.unet, Processor(control)):
        for n, sigma in enumerate(tqdm(sigmas, disable=quiet)):
            control.cross = (n + 1) / len(sigmas) <= cross_end
            control.own = (n + 1) / len(sigmas) < self_end
            guided = _guided(model, x, sigma, text, settings.cfg)
            # as the source's prediction is to the image, so is each to what it should be
            found = image + (guided - guided[IMAGE])  # cancelled first: they are σ times larger
            sigma_next = sigmas[min(n + 1, len(sigmas) - 1)]
            x = found + sigma_next * noise()
            if n and words:
                mask = _where(control, latent.shape[-2:], 1 / c_in(sigma))
                x[EDITED] = torch.where(mask, x[EDITED], x[LAYOUT])
    return Result(latent, found[EDITED, None] / model.scale, mask.float().cpu()[None])


def _guided(model: Model, x: Tensor, sigma: float, text: Embedding, cfg: float) -> Tensor:
    """The images that x stands for, the edited one alone with guidance."""
    uncond, prediction = model.predict(torch.cat([x, x]), sigma, text).chunk(2)
    scales = torch.tensor([1.0, cfg, 1.0], device=x.device).view(3, 1, 1, 1)
    return model.image(x, sigma, uncond + scales * (prediction - uncond))


def _where(control: Control, size: Sequence[int], spread: float) -> Tensor:
    """Where the blended words have been seen: bool[height width]. `spread` is 1 / √ᾱ."""
    coarse = control.seen[:, control.words.blended].amax(1).view(1, 1, *control.layer)
    fine = F.interpolate(coarse, size=tuple(size))[0, 0]
    return fine / fine.max() > max(THRESHOLD, EARLY * spread)


def _layer(model: Model, latent: Tensor) -> tuple[int, int]:
    """Height and width of the layers where words are looked for: 16×16 for 512×512 pixels."""
    size = latent.shape[-2:]
    side = chosen_side(cross_attention_sides(model.pipeline.unet), min(size), None)
    return ceil(size[0] * side), ceil(size[1] * side)


def _timesteps(model: Model, steps: int) -> list[int]:
    """A latent consistency model's, of its schedule's. Raises `ValueError` for more than it has."""
    if steps > TRAINED:
        raise ValueError(
            f"Expected at most {TRAINED} steps for InfEdit, which takes some of a schedule of so "
            f"many, got {steps}. The authors take 12."
        )
    scheduler: Any = LCMScheduler.from_config(model.pipeline.scheduler.config)
    scheduler.set_timesteps(steps, original_inference_steps=TRAINED)
    return scheduler.timesteps.tolist()
