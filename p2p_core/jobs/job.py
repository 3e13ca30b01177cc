"""An edit with its model and the place for its pictures: what a worker is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .edit import Edit
from .files import read_parameters


def model_from_anywhere(model: str) -> str:
    """The same model for workers that may be in other folders: a path as a whole one."""
    return str(Path(model).resolve()) if Path(model).exists() else model


@dataclass(frozen=True)
class Job:
    """An edit to be carried out with a model, and the folder where its pictures are to be."""

    name: str
    edit: Edit
    folder: Path
    model: str = "demo"
    half: bool = False
    place: str = ""
    """Where it was asked for, for who asked."""

    @property
    def command(self) -> str:
        """The command that makes the pictures."""
        return self.edit.command(self.model, self.half)

    @property
    def picture(self) -> Path:
        return self.folder / "edited.png"

    def is_done(self) -> bool:
        """Whether its pictures are there, made by its command of the files as they are."""
        if read_parameters(self.picture).get("command") != self.command:
            return False
        given = [Path(one) for one in (self.edit.image, self.edit.inversion_file) if one]
        made = self.picture.stat().st_mtime_ns
        return all(one.exists() and one.stat().st_mtime_ns < made for one in given)
