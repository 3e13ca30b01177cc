"""Models read from disk, whole: what lacks weights is refused.

Loaders of diffusers and transformers give tensors that they do not find random numbers, and log it.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports all its names lazily)

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import is_accelerate_available
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode

from .kinds import known

SHOWN = 3
"""Missing tensors that an error names."""


def load_pipeline(path: Path, dtype: torch.dtype, **more: Any) -> Any:
    """Load the pipeline of a folder in diffusers' layout or of a checkpoint file.

    `more` is diffusers', such as `config`, a folder with the configuration of a checkpoint file.
    Raises `ValueError` for what is no model, and for one that lacks weights.
    """
    options: dict[str, Any] = {"torch_dtype": dtype, "safety_checker": None, **more}
    try:
        return _from_folder(path, **options) if path.is_dir() else _from_file(path, **options)
    except MissingWeights:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"Expected a model at {path} that is edited in diffusers ({known()}), which cannot "
            f"load it: {str(error).rstrip('.')}. Give a folder in diffusers' layout, or a "
            "checkpoint file of SD1.x, SD2.x or SDXL."
        ) from error


class MissingWeights(ValueError):
    """A model on disk that lacks tensors which its network has."""


def _from_folder(path: Path, **options: Any) -> Any:
    """A folder's pipeline, its networks loaded one by one: only so does one hear what they lack."""
    index: Any = DiffusionPipeline.load_config(path, local_files_only=True)
    networks: dict[str, Any] = {}
    for name, made_of in index.items():
        kind = None if name in options else _network(made_of)
        if kind is not None:
            ours = kind.__module__.startswith("diffusers.models.")
            precision = "torch_dtype" if ours else "dtype"
            networks[name], told = kind.from_pretrained(
                path / name,
                local_files_only=True,
                output_loading_info=True,
                **{precision: options["torch_dtype"]},
            )
            _check_whole(path, name, told["missing_keys"])
    return DiffusionPipeline.from_pretrained(path, local_files_only=True, **networks, **options)


def _network(made_of: Any) -> Any | None:
    """The class of an entry of a pipeline's index, where it is a network of either library.

    Or of a pipeline in diffusers that has networks of its own, as latent diffusion has.
    """
    if not isinstance(made_of, list) or len(made_of) != 2:
        return None
    own = getattr(diffusers.pipelines, str(made_of[0]), None)
    library = {"diffusers": diffusers, "transformers": transformers}.get(made_of[0], own)
    kind = getattr(library, str(made_of[1]), None)
    if not isinstance(kind, type):
        return None
    networks: tuple[Any, ...] = (diffusers.ModelMixin, transformers.PreTrainedModel)
    return kind if issubclass(kind, networks) else None


def _from_file(path: Path, **options: Any) -> Any:
    """A checkpoint file's pipeline: SDXL's for one with two text encoders."""
    keys: set[str] = set()
    if path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as file:
            keys = set(file.keys())
    xl = any(key.startswith("conditioner.embedders.1.") for key in keys)
    kind: Any = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    with _Filling() as filling:
        made = kind.from_single_file(str(path), **options)
    for name, part in made.components.items():
        if isinstance(part, torch.nn.Module):
            lacking = (n for n, one in part.named_parameters() if filling.left_out(one))
            _check_whole(path, name, lacking)
    if "v_pred" in keys:
        scheduler = made.scheduler
        made.scheduler = scheduler.from_config(scheduler.config, prediction_type="v_prediction")
    return made


class _Filling(TorchFunctionMode):
    """While it lasts, notes which tensors others are copied into: those that a loader filled."""

    def __init__(self) -> None:
        super().__init__()
        self.filled: dict[int, Any] = {}  # kept, so that no other takes its identity

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            self.filled[id(args[0])] = args[0]
        return func(*args, **(kwargs or {}))

    def left_out(self, parameter: torch.nn.Parameter) -> bool:
        """Tell whether a parameter got nothing; with accelerate, those stay without numbers."""
        if is_accelerate_available():
            return parameter.is_meta
        return id(parameter) not in self.filled


def _check_whole(path: Path, name: str, missing: Iterable[str]) -> None:
    """Raises `MissingWeights` for a network that lacks any."""
    lacking = sorted(missing)
    if lacking:
        some = ", ".join(lacking[:SHOWN])
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        raise MissingWeights(
            f"Expected all weights of the {name} in {path}, got none for {some}{more}. The file is "
            "damaged, or made for other versions of diffusers and transformers: get the model "
            "again, or upgrade them."
        )
