"""The pack's nodes, one file a family. They wire; the method lives in `p2p_core`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .attention_maps import P2PAttentionMaps
from .compare import P2PCompare
from .controller import P2PController
from .demo import P2PDemoCheckpoint, P2PDemoImage
from .edits import P2PRefine, P2PReweight, P2PWordSwap
from .inversion import P2PLoadInversion, P2PNullTextInversion, P2PSaveInversion
from .local_blend import P2PLocalBlend
from .mix import P2PMix
from .route import add_route
from .sampling import P2PGuider, P2PKSampler, P2PKSamplerAdvanced
from .source import P2PSampleSource
from .weights import P2PWordWeights


class PromptToPromptExtension(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            P2PController,
            P2PWordSwap,
            P2PRefine,
            P2PReweight,
            P2PMix,
            P2PWordWeights,
            P2PLocalBlend,
            P2PKSampler,
            P2PKSamplerAdvanced,
            P2PGuider,
            P2PSampleSource,
            P2PNullTextInversion,
            P2PSaveInversion,
            P2PLoadInversion,
            P2PAttentionMaps,
            P2PCompare,
            P2PDemoCheckpoint,
            P2PDemoImage,
        ]


async def comfy_entrypoint() -> PromptToPromptExtension:
    """Called by the host when it loads the pack."""
    add_route()  # older hosts never call an extension's on_load
    return PromptToPromptExtension()
