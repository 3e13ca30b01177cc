"""An edit with its model and the place for its pictures: what a worker is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .files import Made, read_parameters


def model_from_anywhere(model: str) -> str:
    """Name the model for workers in other folders: a path as a whole one."""
    return str(Path(model).resolve()) if Path(model).exists() else model


class Work(Protocol):
    """What a job is about: an edit, or another method's."""

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that it reads."""
        ...

    def command(self, model: str, half: bool = False) -> str:
        """Write a line that is the same for the same pictures, and for no others."""
        ...

    def make(self, studio: Any) -> Made:
        """Make its pictures, by a `studio.Studio`."""
        ...


@dataclass(frozen=True)
class Job:
    """Work to be carried out with a model, and the folder where its pictures are to be."""

    name: str
    work: Work
    folder: Path
    model: str = "demo"
    half: bool = False
    place: str = ""
    """Where it was asked for, for who asked."""

    @property
    def command(self) -> str:
        """The command that makes the pictures."""
        return self.work.command(self.model, self.half)

    @property
    def picture(self) -> Path:
        return self.folder / "edited.png"

    def is_done(self) -> bool:
        """Tell whether its pictures are there, made by its command of the files as they are."""
        if read_parameters(self.picture).get("command") != self.command:
            return False
        made = self.picture.stat().st_mtime_ns
        return all(one.exists() and one.stat().st_mtime_ns < made for one in self.work.inputs)
