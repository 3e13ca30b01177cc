"""The options that several of `p2p`'s commands have beside those of an edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

Options = Parameter(name="*")
"""Of a dataclass: its fields are options of the command."""

Out = Annotated[Path, Parameter(help="The folder to write to.")]
ModelPath = Annotated[str, Parameter(help="A checkpoint, a folder, or demo.")]
Half = Annotated[bool, Parameter(help="Half precision: half the memory.")]
AsJson = Annotated[
    bool, Parameter(name="--json", help="Tell the result as JSON, and nothing else.")
]
Workers = Annotated[int, Field(ge=1), Parameter(help="How many, with a model each.")]
Cluster = Annotated[
    str | None, Parameter(help="A Ray cluster's address, or local; else processes.")
]
Retries = Annotated[
    int, Field(ge=0), Parameter(help="How often a case that failed is tried again.")
]
