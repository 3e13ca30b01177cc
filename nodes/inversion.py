"""Nodes that invert real images, and keep the inversions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

import comfy.model_management
import comfy.samplers
import folder_paths
import latent_preview
from comfy_api.latest import io

from ..p2p_core.hosts.comfyui.inverting import as_encoded, invert_latent, told_of
from ..p2p_core.inversion.methods import METHODS, Options
from ..p2p_core.inversion.null_text import Schedule
from ..p2p_core.inversion.record import Inversion as Inverted
from ..p2p_core.inversion.task import Progress
from .common import (
    ADVANCED,
    CATEGORY,
    FIXED,
    Inversion,
    fraction_input,
    id_of,
    optional_schema,
    show,
)

SUFFIX = ".p2p.safetensors"
"""What inversions are saved as, to find them again among other files."""

NONE_SAVED = "no inversion is saved yet"
"""What there is to choose from where there is nothing."""

ONLY_FOR = {
    "seed": ("noise", "edit-friendly"),
    "inner_steps": ("null-text",),
    "early_stop": ("null-text",),
    "learning_rate": ("null-text",),
    "low_memory": (),
}
"""Of settings that other methods ignore, the methods whose inversion depends on them."""

_MADE = WeakKeyDictionary[Any, dict[str, tuple[Any, ...]]]()
"""Models → {node: (its latent, its negative, what else its inversion depends on, that inversion)}.

The host makes a node anew whenever one of its values changes, also one that the method ignores, and
keeps nothing by which the node could tell. This is all that is remembered between runs, the last
inversion of each node, as long as its model lives.
"""


def dependences(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Those of a node's settings that its inversion depends on."""
    return tuple(
        (name, value)
        for name, value in settings.items()
        if name not in ONLY_FOR or settings["method"] in ONLY_FOR[name]
    )


def told(inversion: Inverted) -> str:
    """Say of an inversion how well it comes back, and how well its prompt explains it."""
    text = f"{inversion.method}: {inversion.report}"
    if inversion.explained:
        text += f"\nsource prompt: {inversion.report_of_prompt}"
    if not inversion.prompt.strip():
        text += "\nwithout a source prompt: only P2P Refine can edit this, and nothing is held"
    return text


class P2PNullTextInversion(io.ComfyNode):
    """Find the noise and the null texts that make a given image (null-text inversion)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_NullTextInversion",
            display_name="P2P Null-text Inversion",
            category=CATEGORY,
            description="Finds how the model would have made a given image, so that it can be "
            "edited by its prompt like a generated one. Connect the inversion to a P2P KSampler, "
            "which takes its settings, and the source prompt to the P2P Controller.",
            **optional_schema(
                search_aliases=[
                    "prompt to prompt",
                    "inversion",
                    "real image",
                    "edit photo",
                    "DDIM inversion",
                ]
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to edit with: any that P2P KSampler edits, such as SDXL, "
                    "Flux or Qwen-Image.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.Vae.Input("vae", tooltip="To tell in decibels how well the image comes back."),
                io.Latent.Input("latent", tooltip="The image, from VAE Encode; or several."),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The negative prompt that editing will use: usually an empty text. "
                    "Null-text inversion begins with it.",
                ),
                io.String.Input(
                    "source_prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image shows. The better it fits, the better words can be "
                    "edited: the node says how well it explains the image. Empty works, but then "
                    "there are no words to hold on to.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    # As README recommends; saved workflows hold the method that they have.
                    default="edit-friendly",
                    tooltip="edit-friendly: the source is put back on its path at every step, with "
                    "a noise for each, exact and fast; begin with it, the sampler euler_ancestral "
                    "and a denoise of 0.7. direct: the same on a walk to noise, for any sampler "
                    "and a denoise of 1. direct-shared: the edits are moved along and stay closer. "
                    "residual: the source is put back and the model asked where the walk asked it, "
                    "with the fewest evaluations; also for models that are run at a cfg of 1. "
                    "null-text: the source runs freely and comes back by optimised null texts. "
                    "negative-prompt: the source prompt instead of them, at once. ddim: plain "
                    "inversion. noise: the image with noise, for a denoise below 1 and a local "
                    "blend.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=1000,
                    tooltip="How many sampling steps, here and at the P2P KSampler.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="The guidance scale, here and at the P2P KSampler; null texts are made "
                    "for it.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="How the noise falls over the steps, here and at the P2P KSampler.",
                ),
                fraction_input(
                    "denoise",
                    0.7,
                    "How far towards noise to go, 0 to 1, here and at the P2P KSampler: about 0.7 "
                    "for edit-friendly and noise, 1 for the other methods.",
                ),
                io.Int.Input(
                    "inner_steps",
                    default=4,
                    min=0,
                    max=100,
                    tooltip="null-text: at most so many optimisation steps at each sampling step.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "early_stop",
                    default=1e-6,
                    min=0.0,
                    max=1.0,
                    step=1e-7,
                    round=False,
                    tooltip="null-text: a step is good enough at this loss. Higher is faster, "
                    "lower closer.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "iterations",
                    default=0,
                    min=0,
                    max=20,
                    tooltip="Fixed-point iterations that refine each step on the way to noise: "
                    "each costs one evaluation of the model.",
                    **ADVANCED,
                ),
                fraction_input(
                    "proximal",
                    0.0,
                    "negative-prompt: the part of the guidance, 0 to 1, that is too small to be "
                    "more than noise and is left out; 0.7 is usual, 0 is off.",
                    **ADVANCED,
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=FIXED,
                    tooltip="noise, edit-friendly: the seed of the noise that is added. Other "
                    "methods have none.",
                    **ADVANCED,
                ),
                io.Boolean.Input(
                    "low_memory",
                    default=True,
                    tooltip="null-text: forget the insides of the model's blocks and evaluate them "
                    "again for gradients. Less than half the memory for a little more time.",
                    **ADVANCED,
                ),
                io.Float.Input(
                    "learning_rate",
                    default=3e-2,
                    min=1e-6,
                    max=1.0,
                    step=1e-3,
                    round=False,
                    optional=True,
                    tooltip="null-text: how far an optimisation step goes, 0 to 1, at the first "
                    "sampling step; less at later ones. The authors' schedule is 0.01, with 10 "
                    "inner_steps and an early_stop of 0.00001.",
                    **ADVANCED,
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that the latent is of, to tell in decibels how well it "
                    "comes back. Unconnected: the decoded latent stands in for it.",
                ),
            ],
            outputs=[
                Inversion.Output(
                    display_name="inversion", tooltip="To a P2P KSampler or P2P Guider."
                ),
                io.String.Output(
                    display_name="source_prompt", tooltip="To the P2P Controller's source prompt."
                ),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The inverted latent, to the sampler's latent image.",
                ),
                io.Latent.Output(
                    display_name="reconstruction",
                    tooltip="What sampling makes of the image without an edit.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How close the reconstruction comes to the image through the "
                    "autoencoder, and how well the prompt explains the image, each in figures and "
                    "in a word: good, fair or poor.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        latent: dict[str, Any],
        negative: Any,
        learning_rate: float = 3e-2,
        image: Any = None,
        **settings: Any,
    ) -> io.NodeOutput:
        node = id_of(cls)
        settings["learning_rate"] = learning_rate
        made = _MADE.setdefault(model, {})
        batch = tuple(latent.get("batch_index") or ())
        of = (ref(clip), ref(vae), "noise_mask" in latent, batch, dependences(settings))
        samples = latent["samples"]
        if image is not None:
            image = as_encoded(image, vae, samples)
        before = made.get(node, (None,) * 4)
        if before[0] is samples and before[1] is negative and before[2] == of:
            inversion = before[3]
        else:
            inversion = inverted(model, clip, vae, latent, negative, node, **settings)
            made[node] = samples, negative, of, inversion
        return _outputs(told_of(inversion, vae, image), node)


def inverted(
    model: Any,
    clip: Any,
    vae: Any,
    latent: dict[str, Any],
    negative: Any,
    node: str,
    *,
    source_prompt: str,
    method: str,
    steps: int,
    cfg: float,
    scheduler: str,
    denoise: float,
    inner_steps: int,
    early_stop: float,
    iterations: int,
    proximal: float,
    seed: int,
    low_memory: bool,
    learning_rate: float,
) -> Inverted:
    """Invert a node's latent, and show the progress on the node."""
    preview = latent_preview.prepare_callback(
        model, steps * (1 + inner_steps * (method == "null-text"))
    )

    def watch(progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview(progress.done, progress.image, progress.image, progress.total)
        if progress.loss is not None:
            show(f"loss {progress.loss:.1e}", node)

    return invert_latent(
        model,
        clip,
        source_prompt,
        Options(method, Schedule(inner_steps, learning_rate, early_stop), iterations, proximal),
        negative=negative,
        latent=latent,
        vae=vae,
        steps=steps,
        scheduler=scheduler,
        denoise=denoise,
        guidance=cfg,
        seed=seed,
        watch=watch,
        low_memory=low_memory,
        explain=bool(source_prompt.strip()),
    )


def _outputs(inversion: Inverted, node: str) -> io.NodeOutput:
    report = told(inversion)
    show(report, node)
    return io.NodeOutput(
        inversion,
        inversion.prompt,
        {"samples": inversion.latent},
        {"samples": inversion.reconstruction},
        report,
    )


class P2PSaveInversion(io.ComfyNode):
    """Keep an inversion in a safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_SaveInversion",
            display_name="P2P Save Inversion",
            category=CATEGORY,
            description="Writes an inversion into the output folder, for P2P Load Inversion.",
            **optional_schema(search_aliases=["prompt to prompt", "inversion"]),
            is_output_node=True,
            inputs=[
                Inversion.Input("inversion", tooltip="From P2P Null-text Inversion."),
                io.String.Input(
                    "filename_prefix",
                    default="inversions/p2p",
                    tooltip="Folder and beginning of the file's name, in the output folder.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The file's name.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, inversion: Any, filename_prefix: str) -> io.NodeOutput:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_{SUFFIX}"
        inversion.save(path)
        saved = str(Path(subfolder) / path.name)
        show(saved, id_of(cls))
        return io.NodeOutput(saved)


class P2PLoadInversion(io.ComfyNode):
    """Take an inversion from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2P_LoadInversion",
            display_name="P2P Load Inversion",
            category=CATEGORY,
            description="Reads an inversion that P2P Save Inversion wrote. It belongs to the "
            "model, the prompt and the steps that it was made with.",
            **optional_schema(search_aliases=["prompt to prompt", "inversion"]),
            inputs=[
                io.Combo.Input(
                    "file",
                    options=saved_files() or [NONE_SAVED],
                    tooltip="A file from the output or the input folder. Reload the node "
                    "definitions (R) to see new ones.",
                )
            ],
            outputs=P2PNullTextInversion.define_schema().outputs,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        if file == NONE_SAVED:
            raise ValueError(
                "Expected an inversion's file, got none: there is none in the output or the input "
                f"folder. Make one with P2P Save Inversion, its name ends in {SUFFIX}, and reload "
                "the node definitions (R)."
            )
        path = Path(folder_paths.get_annotated_filepath(file))
        return _outputs(Inverted.load(path), id_of(cls))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> Any:
        """Tell the host that a file that was written anew is to be read anew."""
        path = Path(folder_paths.get_annotated_filepath(file))
        return path.stat().st_mtime_ns if path.is_file() else file


def saved_files() -> list[str]:
    """Inversions in the host's output and input folders, as its file choosers name them.

    Regular files alone: a pipe of such a name would be read for ever.
    """
    folders = {
        "output": folder_paths.get_output_directory(),
        "input": folder_paths.get_input_directory(),
    }
    return [
        f"{path.relative_to(folder).as_posix()} [{name}]"
        for name, folder in folders.items()
        for path in sorted(Path(folder).rglob(f"*{SUFFIX}"))
        if path.is_file()
    ]
