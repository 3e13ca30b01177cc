"""Pictures from the real ComfyUI: the demo workflow with other words, edits and seeds."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...hosts.launch.server import Server
from ...hosts.launch.workflow import by_type, to_prompt

WORKFLOW = Path(__file__).resolve().parents[3] / "workflows" / "1_word_swap.json"
EDITS = ("P2P_WordSwap", "P2P_Refine", "P2P_Reweight", "P2P_LocalBlend")

Link = tuple[str, Mapping[str, Any]]
"""An edit node: its type, and those of its inputs that are not at their defaults."""


@dataclass(frozen=True)
class Request:
    """A prompt and chains of edits of it, and what pictures are wanted of them.

    "source" are `seeds` pictures, "p2p" as many for each chain, one chain after the other; if
    wanted, "reprompt" are those of the prompt `reprompt`, from the same noise and without control,
    "maps" a heatmap for each of the words in `maps`, and "masks" the local blends' of every picture
    of "p2p", white where there is none, in latent cells.
    """

    text: str
    chains: Sequence[Sequence[Link]]
    seeds: int
    seed: int
    reprompt: str | None = None
    maps: str | None = None
    masks: bool = False


Pictures = dict[str, list[np.ndarray]]
"""uint8[height width 3] by what they show."""


class Photographer(Protocol):
    """Whoever takes the demo's pictures."""

    @property
    def model(self) -> str:
        """The demo model that they are of, as P2P Demo Checkpoint names it."""
        ...

    def shoot(self, wanted: Request) -> Pictures:
        """Take the pictures that are wanted."""
        ...


class Studio:
    """Runs workflows/1_word_swap.json on a server, with a demo model."""

    def __init__(self, server: Server, model: str = "UNet") -> None:
        self.server, self.model = server, model
        self.nodes: Mapping[str, Any] = server.get("/object_info")
        workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
        self.prompt = to_prompt(workflow, self.nodes)
        by_type(self.prompt, "P2P_DemoCheckpoint").update(model=model)

    def shoot(self, wanted: Request) -> Pictures:
        """Take pictures as every `Photographer`."""
        prompt = self._with_chains(wanted.chains)
        by_type(prompt, "P2P_Controller").update(source_prompt=wanted.text)
        by_type(prompt, "EmptyLatentImage").update(batch_size=wanted.seeds)
        by_type(prompt, "P2P_KSampler").update(seed=wanted.seed)
        by_type(prompt, "KSampler").update(seed=wanted.seed)
        saved = {self._prefix(node): name for name, node in prompt.items() if self._prefix(node)}
        if wanted.reprompt is None:
            del prompt[saved["reprompt"]]
        else:
            self._prompt_of(prompt, "KSampler")["text"] = wanted.reprompt
        if wanted.maps is not None:
            self._add_maps(prompt, saved, wanted.maps)
        if wanted.masks:
            sampler = next(n for n, node in prompt.items() if node["class_type"] == "P2P_KSampler")
            prompt["masks"] = self._node("MaskToImage", {"mask": [sampler, 2]})
            prompt["save_masks"] = self._node(
                "SaveImage", {"images": ["masks", 0], "filename_prefix": "p2p_masks"}
            )
        outputs = self.server.queue(prompt)
        return {
            self._prefix(prompt[name]): [
                np.asarray(image.convert("RGB")) for image in self.server.images({name: output})
            ]
            for name, output in outputs.items()
            if output.get("images")
        }

    def _with_chains(self, chains: Sequence[Sequence[Link]]) -> dict[str, Any]:
        prompt = {
            name: node
            for name, node in copy.deepcopy(self.prompt).items()
            if node["class_type"] not in EDITS
        }
        controller = by_type(prompt, "P2P_Controller")
        controller.pop("edit_1", None)
        for number, chain in enumerate(chains, 1):
            before: dict[str, Any] = {}
            for place, (class_type, inputs) in enumerate(chain):
                name = f"edit_{number}_{place}"
                prompt[name] = self._node(class_type, {**inputs, **before})
                before = {"edit": [name, 0]}
            controller[f"edit_{number}"] = before["edit"]
        return prompt

    def _node(self, class_type: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        required: Mapping[str, Any] = self.nodes[class_type]["input"].get("required", {})
        defaults = {
            name: options[0]["default"]
            for name, (_, *options) in required.items()
            if options and "default" in options[0]
        }
        return {"class_type": class_type, "inputs": {**defaults, **inputs}}

    @staticmethod
    def _prompt_of(prompt: dict[str, Any], class_type: str) -> dict[str, Any]:
        """Inputs of the text encoder that a sampler's positive prompt comes from."""
        encoder, _ = by_type(prompt, class_type)["positive"]
        return prompt[encoder]["inputs"]

    def _add_maps(self, prompt: dict[str, Any], saved: Mapping[str, str], words: str) -> None:
        sampler = next(n for n, node in prompt.items() if node["class_type"] == "P2P_KSampler")
        images = {
            f"{name}_images": prompt[saved[prefix]]["inputs"]["images"]
            for name, prefix in (("source", "source"), ("edited", "p2p"))
        }
        inputs = {"run": [sampler, 3], "words": words, **images}
        prompt["maps"] = self._node("P2P_AttentionMaps", inputs)
        prompt["save_maps"] = self._node(
            "SaveImage", {"images": ["maps", 0], "filename_prefix": "p2p_maps"}
        )

    @staticmethod
    def _prefix(node: Mapping[str, Any]) -> str:
        return str(node["inputs"].get("filename_prefix", "")).removeprefix("p2p_")
