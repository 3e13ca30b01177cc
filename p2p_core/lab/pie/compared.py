"""InfEdit as work for a job: a method to compare with, on models of its own kind."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...drawing import to_bytes
from ...jobs.edit import Sampling
from ...jobs.files import Made
from ...jobs.photographs import read_photograph
from ...jobs.values import checked


@checked
class InfEdit(Sampling):
    """A photograph edited by InfEdit (Xu et al. 2024), which inverts nothing.

    `words` of the edited prompt are what the edit is kept to.
    """

    source: str
    refine: str
    """The whole edited prompt."""
    image: str
    words: tuple[str, ...] = ()
    cross_replace_end: float = 0.7
    self_replace_end: float = 0.7

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that it reads."""
        return (Path(self.image),)

    def command(self, model: str, half: bool = False) -> str:
        """Say what it is, in a line."""
        given = [f"{field.name}={getattr(self, field.name)}" for field in fields(self)]
        return shlex.join(["infedit", *given, f"model={model}", f"half={half}"])

    def make(self, studio: Any) -> Made:
        """Make its pictures; raises `ValueError` for words, files and settings that do not fit."""
        from .infedit import infedit

        settings = studio.settings(self)
        result = infedit(
            studio.model,
            self.source,
            self.refine,
            studio.latent(read_photograph(Path(self.image)), self),
            settings,
            negative=self.negative,
            words=self.words,
            cross_end=self.cross_replace_end,
            self_end=self.self_replace_end,
            quiet=studio.quiet,
        )
        pictures = {
            "source": studio.model.to_pictures(result.source)[0],
            "edited": studio.model.to_pictures(result.edited)[0],
        }
        if self.words:
            pictures["mask"] = to_bytes(result.masks[0])
        return pictures, {
            **self.parameters(),
            **studio.told(settings),
            "edited": self.refine,
            "command": self.command(studio.name, studio.half),
        }
