"""A model in diffusers, and what it makes of edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..drawing import draw, to_bytes
from ..hosts.diffusers.inverting import invert
from ..hosts.diffusers.opening import open_model
from ..hosts.diffusers.pipeline import Model
from ..hosts.diffusers.sampling import Settings, sample_planned
from ..hosts.diffusers.viewing import sample_and_look
from ..inversion.methods import Options
from ..inversion.record import Inversion
from ..notation import check_text, parse_words
from .edit import Edit, Sampling
from .files import Made
from .photographs import read_photograph

DEMO = "demo"
"""The name of the model that ships with this project."""


@dataclass(frozen=True)
class Studio:
    """A model under the name that it was asked for by."""

    model: Model
    name: str
    half: bool
    quiet: bool

    @classmethod
    def open(cls, name: str, half: bool = False, quiet: bool = False) -> Studio:
        """Open the demo model or one from a path, on the accelerator if there is one.

        In half precision: float16, or bfloat16 without an accelerator. Raises `ValueError` where
        there is no such model.
        """
        accelerator = torch.cuda.is_available()
        dtype = torch.float32
        if half:
            dtype = torch.float16 if accelerator else torch.bfloat16
        if name == DEMO:
            model = Model.demo()
            if half:
                model.pipeline.to(dtype)
        else:
            model = open_model(Path(name), dtype)
        if accelerator:
            model.pipeline.to("cuda")
        return cls(model, name, half, quiet)

    @property
    def side(self) -> int:
        """Of the images that the model was trained on, in pixels."""
        return self.model.side

    def edit(self, edit: Edit) -> Made:
        """Make the source, its edit, and the mask of a local blend.

        Raises `ValueError` for words, files and settings that do not fit.
        """
        picture = None if edit.image is None else read_photograph(edit.image)
        planned = edit.plan(self.model.read)
        settings = self.settings(edit)
        latent, found = self._blank(edit), None
        if edit.inversion_file is not None:
            found = Inversion.load(edit.inversion_file)
            latent = found.latent
        if picture is not None:
            latent = self.latent(picture, edit)
            if found is None:
                found = self._invert(latent, edit.source, edit.options(), edit)
        result = sample_planned(
            self.model,
            planned,
            latent,
            settings,
            negative=edit.negative,
            inversion=found,
            quiet=self.quiet,
        )
        pictures = {
            "source": self.model.to_pictures(result.source)[0],
            "edited": self.model.to_pictures(result.edited)[0],
        }
        if edit.blend:
            pictures["mask"] = to_bytes(result.masks[0])
        return pictures, {
            **edit.parameters(),
            **self.told(settings),
            "edited": planned.branches[0].edited.text,
            "inversion": None if found is None else found.method,
            "reconstruction_psnr": None if found is None else found.psnr[0],
            "command": edit.command(self.name, self.half),
        }

    def maps(self, source: str, words: str, side: float | None, how: Sampling) -> Made:
        """Show where an image looks at words, or at each of its prompt, in layers of a `side`.

        Raises `ValueError` for words that are not there.
        """
        check_text(source)
        check_text(words)
        latent = self._blank(how)
        rest = {"settings": self.settings(how), "negative": how.negative, "quiet": self.quiet}
        result, seen = sample_and_look(
            self.model, source, [], latent, parse_words(words), side, **rest
        )
        picture = self.model.to_pictures(result.source)[0]
        drawings = draw(seen, [torch.from_numpy(picture / 255).float()])
        pictures = {"source": picture}
        for number, (one, heatmap, steps) in enumerate(
            zip(seen, drawings.heatmaps, drawings.steps, strict=True), 1
        ):
            name = f"{number:02}_{''.join(c for c in one.word if c.isalnum())}"
            pictures |= {name: to_bytes(heatmap), f"{name}_steps": to_bytes(steps)}
        about = {"source": source, "words": [one.word for one in seen]}
        return pictures, {**how.parameters(), **self.told(self.settings(how)), **about}

    def invert(
        self, image: Path, source: str, options: Options, how: Sampling
    ) -> tuple[Inversion, Made]:
        """Invert a photograph, and show what comes back.

        Raises `ValueError` for a file that is no picture.
        """
        check_text(source)
        latent = self.latent(read_photograph(image), how)
        found = self._invert(latent, source, options, how)
        pictures = {"reconstruction": self.model.to_pictures(found.reconstruction)[0]}
        about = {
            "source": source,
            "image": str(image),
            "inversion": options.method,
            "reconstruction_psnr": found.psnr[0],
        }
        return found, (pictures, {**how.parameters(), **self.told(self.settings(how)), **about})

    def settings(self, how: Sampling) -> Settings:
        """Those that are asked for, with the guidance that suits the model where none is.

        Raises `ValueError` where a model is told of guidance that was not distilled for it.
        """
        if how.guidance is not None and not self.model.distilled:
            raise ValueError(
                f"Expected no --guidance for {type(self.model.network).__name__}, which was not "
                f"distilled for it, got {how.guidance:g}. Guide it with --cfg."
            )
        return how.settings(3.0 if self.name == DEMO else self.model.cfg)

    def told(self, settings: Settings) -> dict[str, Any]:
        """Say of pictures what model made them."""
        return {"model": self.name, "half": self.half, "cfg": settings.cfg}

    def _blank(self, how: Sampling) -> torch.Tensor:
        """The latent of an image yet to be made."""
        width, height = how.size or (self.side, self.side)
        return self.model.blank(width, height)

    def latent(self, picture: Image.Image, how: Sampling) -> torch.Tensor:
        """Encode a photograph, scaled to the size wanted or its shorter side to the model's."""
        scale = self.side / min(picture.size)
        least = self.model.least
        width, height = (max(least, round(s * scale / least) * least) for s in picture.size)
        scaled = picture.resize(how.size or (width, height), Image.Resampling.LANCZOS)
        return self.model.to_latent(np.asarray(scaled)[None])

    def _invert(
        self, latent: torch.Tensor, prompt: str, options: Options, how: Sampling
    ) -> Inversion:
        with tqdm(desc="inverting", disable=self.quiet) as bar:
            return invert(
                self.model,
                latent,
                prompt,
                options,
                self.settings(how),
                negative=how.negative,
                watch=_watcher(bar),
            )


def _watcher(bar: Any) -> Callable[[Any], None]:
    def watch(progress: Any) -> None:
        bar.total, bar.n = progress.total, progress.done
        if progress.loss is not None:
            bar.set_postfix(loss=f"{progress.loss:.1e}", refresh=False)
        bar.update(0)

    return watch
