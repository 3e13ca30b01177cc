"""Models that the host compiles, with or without a look at what changes from call to call."""

from __future__ import annotations

import logging
from typing import Any

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS

log = logging.getLogger(__name__)


def uncompiled_if_unguarded(model: Any) -> Any:
    """Take off a clone of the model a compilation that would use one graph for every call.

    Edits are in transformer_options. Where a filter takes PyTorch's guards off these, as the
    TorchCompileModel node of new hosts does, the graph of the first call is used for all that
    follow, edited or not, also by whoever samples with the compiled model afterwards. Without a
    filter there is a graph for each kind of call, and the model stays compiled.

    A filter is one of the options of a compilation, but `torch.compile` takes it out of them: any
    options at all count as one.
    """
    compiled = model.model_options.get(TORCH_COMPILE_KWARGS) or {}
    if compiled.get("options") is not None:
        log.warning(
            "Not compiled while Prompt-to-Prompt samples or inverts: the model's compilation "
            "(TorchCompileModel) does not look at the options in which edits are, and would leave "
            "them out."
        )
        model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    return model
