"""Models of any family that is edited, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .flow import FlowModel
from .loading import load_pipeline
from .pipeline import Model


def model_of(pipeline: Any) -> Model:
    """Wrap a pipeline: of a UNet, or of a transformer that matches flows.

    Raises `ValueError` for one of neither.
    """
    flows = getattr(pipeline, "transformer", None) is not None
    return FlowModel(pipeline) if flows else Model(pipeline)


def open_model(path: Path, dtype: torch.dtype = torch.float32) -> Model:
    """Open a model in diffusers' folder layout, or a checkpoint file of a UNet.

    Raises `ValueError` as `Model.load` does.
    """
    if not path.is_dir():
        return Model.load(path, dtype)
    return model_of(load_pipeline(path, dtype))
