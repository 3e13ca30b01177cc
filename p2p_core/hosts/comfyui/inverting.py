"""Inverting images in ComfyUI: the host loads, patches and tidies up as for any sampling run.

A method runs in the place of a sampler. It wants gradients, which the host's nodes are run without:
here inference mode is off, weights that were loaded in it are exchanged for equal ones that a
gradient can pass, attention is PyTorch's own, and transformer blocks are evaluated a second time
instead of being remembered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch
from torch import Tensor

from ...inversion.explaining import explained
from ...inversion.gradients import modified_in_place, modifying, trainable
from ...inversion.methods import Method, Options
from ...inversion.record import Inversion, Spacing, psnr, summary
from ...inversion.task import Embedding, Found, Progress, Task, replay
from .compiling import uncompiled_if_unguarded
from .conditioning import Conditioning
from .families import family_of
from .families.override import OVERRIDE
from .replaying import probe, space_of
from .sampling import samples_of, stock_levels


def invert_latent(
    model: Any,
    clip: Any,
    prompt: str,
    options: Options,
    *,
    negative: Conditioning,
    latent: dict[str, Any],
    vae: Any,
    steps: int,
    scheduler: str,
    denoise: float,
    guidance: float,
    seed: int = 0,
    watch: Callable[[Progress], None] = lambda progress: None,
    low_memory: bool = True,
    positive: Conditioning | None = None,
    explain: bool = False,
) -> Inversion:
    """Invert a node's latent, for P2P KSampler.

    `prompt` describes the image; empty works, but leaves edits no words to hold on to. `positive`
    is its conditioning where other nodes had it, as the edits' then is to be, too. `seed` is that
    of the noise, for methods that add some. With `explain` the prompt is measured, too, by a few
    evaluations more. Raises `ValueError` for models and latents that cannot be inverted, for
    methods that need a negative prompt where there is none, and as `invert` does.
    """
    family_of(model)  # of one that can be edited
    options.check_guidance(guidance)
    samples = samples_of(model, latent)
    if not denoise > 0:
        raise ValueError(
            f"Expected a denoise above 0, got {denoise:g}. At 0 nothing is sampled, and so nothing "
            "can be inverted; 1 goes all the way to noise."
        )
    if "noise_mask" in latent:
        raise ValueError(
            "Expected a latent without a noise mask, got one with it. Encode the image with VAE "
            "Encode; P2P Local Blend Mask takes a mask of where the image may change."
        )
    sigmas = stock_levels(model, steps, "euler", scheduler, denoise)
    source = positive or clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    parts: tuple[float, ...] = ()

    def draw(latents: Tensor, n: int) -> Tensor:
        """Draw noise as the host's samplers do."""
        number = (seed + n) % 2**64
        return comfy.sample.prepare_noise(latents.cpu(), number, latent.get("batch_index"))

    def method(task: Task) -> Found:
        nonlocal parts
        parts = explained(task, draw) if explain else ()
        return options(task, draw)

    found, result = invert(
        model,
        method,
        source=source,
        negative=negative,
        latent=samples,
        sigmas=sigmas,
        guidance=guidance,
        watch=watch,
        low_memory=low_memory,
    )
    samples, reached = samples.cpu(), tuple[float, ...]()
    if vae is not None:
        with torch.no_grad():
            reached = psnr(vae.decode(samples), vae.decode(result))
    return Inversion(
        method=options.method,
        prompt=prompt,
        guidance=guidance,
        sigmas=sigmas.cpu(),
        found=found.cpu(),
        latent=samples,
        reconstruction=result.cpu(),
        psnr=reached,
        source=summary(source[0][0]),
        negative=summary(negative[0][0]),
        probe=probe(model),
        proximal=options.proximal,
        spacing=Spacing(steps, scheduler, denoise),
        explained=parts,
    )


def as_encoded(image: Tensor, vae: Any, latent: Tensor) -> Tensor:
    """Cut out the part of a picture that its latent is of: float[images height width 3].

    Encoding crops sides to what the autoencoder can halve. Raises `ValueError` for a picture of
    another size or another number of them.
    """
    size = vae.decode(latent).shape[:3]
    over = [given - wanted for given, wanted in zip(image.shape[:3], size, strict=True)]
    if over[0] or not all(0 <= side < LEAST_SIDE for side in over[1:]):
        raise ValueError(
            f"Expected the picture that the latent is of, {size[0]} of {size[2]}×{size[1]} pixels, "
            f"got {image.shape[0]} of {image.shape[2]}×{image.shape[1]}. Connect the image that "
            "goes into VAE Encode."
        )
    top, left = (side // 2 for side in over[1:])
    return image[:, top : top + size[1], left : left + size[2], :3]


def told_of(inversion: Inversion, vae: Any, image: Tensor | None = None) -> Inversion:
    """Add to an inversion how well the pictures come back through the autoencoder.

    Held against `image`, as `as_encoded` gives it; without one, against the decoded latent, which
    then goes through the autoencoder once more, as a photograph would.
    """
    latent, result = inversion.latent, inversion.reconstruction
    with torch.no_grad():
        given = vae.decode(latent)
        made = given if torch.equal(latent, result) else vae.decode(result)
        true = given if image is None else image
        if image is None:
            given, made = (vae.decode(vae.encode(one)) for one in (given, made))
    return replace(inversion, picture=psnr(true, made), limit=psnr(true, given))


LEAST_SIDE = 64
"""Pixels, beyond which another side is not one that was cropped for the autoencoder."""


def invert(
    model: Any,
    method: Method,
    *,
    source: Conditioning,
    negative: Conditioning,
    latent: Tensor,
    sigmas: Tensor,
    guidance: float,
    watch: Callable[[Progress], None] = lambda progress: None,
    low_memory: bool = True,
) -> tuple[Found, Tensor]:
    """Invert a latent image by a method, and sample what comes of it.

    The trajectory is in the sampler's space, the returned latent float[images channels height
    width] as nodes pass them. `low_memory` evaluates transformer blocks twice where there are
    gradients. `watch` is told of every evaluation and stops the inversion by raising.

    Raises `ValueError` for conditionings of more than one plain entry and as the method does.
    """
    _check_plain("source", source, len(latent))
    _check_plain("negative", negative, len(latent))
    if getattr(model, "is_dynamic", bool)():
        model = model.get_non_dynamic_delegate()
    sampler = _Inverting(method, watch, low_memory)
    with torch.inference_mode(False):
        patched = uncompiled_if_unguarded(model.clone())
        patched.model_options.setdefault("transformer_options", {})[OVERRIDE] = _differentiable
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(_normal(source), _normal(negative))
        guider.set_cfg(guidance)
        comfy.model_management.load_models_gpu([patched], force_full_load=True)
        clean = latent.detach().clone()
        result = guider.sample(torch.zeros_like(clean), clean, sampler, sigmas.clone())
    assert sampler.found is not None
    return sampler.found, result


PARTIAL = {
    "hooks": "hooks",
    "area": "an area",
    "mask": "a mask",
    "control": "a ControlNet",
    "start_percent": "a range of steps",
    "end_percent": "a range of steps",
    "strength": "a strength",
    "gligen": "GLIGEN boxes",
}
"""What an entry of a conditioning may have that makes it one of a part of the image or the run."""


def _check_plain(name: str, conditioning: Conditioning, images: int) -> None:
    """Raises `ValueError` for what is not one text for the whole image and the whole run."""
    found = [
        said for key, said in PARTIAL.items() if any(key in extra for _, extra in conditioning)
    ]
    if "hooks" in found:
        raise ValueError(
            f"Expected a {name} conditioning without hooks, got one with them: LoRA hooks on the "
            "CLIP or on a conditioning change the model from text to text, which an inversion does "
            "not follow. Take them off, or load the LoRA for model and CLIP with Load LoRA."
        )
    if found or len(conditioning) != 1:
        got = f"one with {' and '.join(dict.fromkeys(found))}" if found else "none"
        got = f"{len(conditioning)} entries" if len(conditioning) > 1 else got
        raise ValueError(
            f"Expected a {name} conditioning of one plain prompt, got {got}. Connect a text "
            "encoder's output as it is."
        )
    rows = conditioning[0][0].shape[0]
    if rows not in (1, images):
        raise ValueError(
            f"Expected a {name} conditioning of one row, or one for each of {images} image(s), got "
            f"{rows} rows. Connect a text encoder's output as it is."
        )


class _Inverting(comfy.samplers.Sampler):
    """The host's sampler that inverts: from the latent image to noise and back."""

    def __init__(
        self,
        method: Method,
        watch: Callable[[Progress], None],
        low_memory: bool,
    ) -> None:
        self.method, self.watch, self.low_memory = method, watch, low_memory
        self.found: Found | None = None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        assert latent_image is not None
        network, options = model_wrap.inner_model, _modifying(extra_args["model_options"])
        guider = copy.copy(model_wrap)

        def denoise(x: Tensor, sigma: float, *texts: Embedding | None) -> Sequence[Tensor]:
            conds: list[Any] = [text and [_with_tokens(text)] for text in texts]
            level = x.new_full((len(x),), sigma)
            predictions = comfy.samplers.calc_cond_batch(network, conds, x, level, options)
            return [one for one, text in zip(predictions, texts, strict=True) if text]

        def guide(
            x: Tensor, sigma: float, source: Tensor, uncond: Tensor, null: Embedding
        ) -> Tensor:
            """Guide as the host's own guider does, with all that patches of the guidance do."""

            def predictions(args: dict[str, Any]) -> list[Tensor]:
                pairs = zip(args["conds"], (source, uncond), strict=True)
                return [torch.zeros_like(x) if cond is None else seen for cond, seen in pairs]

            guider.conds = {
                "positive": [_with_tokens(task.source)],
                "negative": [_with_tokens(null)],
            }
            known = {"sampler_calc_cond_batch_function": predictions, **options}
            return guider(x, x.new_full((len(x),), sigma), known, extra_args.get("seed"))

        def embedding(name: str) -> Embedding:
            (cond,) = model_wrap.conds[name]
            tokens = cond["model_conds"]["c_crossattn"].cond.float()
            return Embedding(tokens.expand(len(latent_image), -1, -1), cond)

        task = Task(
            denoise,
            latent_image,
            tuple(sigmas.tolist()),
            embedding("positive"),
            embedding("negative"),
            guide,
            space_of(guider.model_patcher),
            self.watch,
        )
        blocks = [
            module
            for module in network.diffusion_model.modules()
            if isinstance(module, BasicTransformerBlock)
        ]
        keeping = nullcontext() if blocks else modified_in_place(network.diffusion_model)
        with trainable(network.diffusion_model, blocks, self.low_memory), _training(), keeping:
            self.found = self.method(task)
        with torch.no_grad():
            return replay(replace(task, watch=lambda progress: None), self.found)


@contextmanager
def _training() -> Iterator[None]:
    """Have networks evaluated as the host has it where gradients are wanted, if it knows how."""
    before = getattr(comfy.model_management, "in_training", False)
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def _with_tokens(text: Embedding) -> dict[str, Any]:
    """The host's conditioning of an embedding, with its tokens."""
    own = text.rest["model_conds"]
    tokens = type(own["c_crossattn"])(text.tokens)  # of the kind that says what it goes with
    return {**text.rest, "model_conds": {**own, "c_crossattn": tokens}}


def _modifying(options: dict[str, Any]) -> dict[str, Any]:
    """The same model options, with patches that gradients pass whatever they do in place."""
    transformer = options.get("transformer_options", {})
    patches = {
        name: [modifying(patch) if callable(patch) else patch for patch in some]
        for name, some in transformer.get("patches", {}).items()
    }
    return {**options, "transformer_options": {**transformer, "patches": patches}}


def _normal(conditioning: Conditioning) -> Conditioning:
    """The same conditioning, made of tensors that can take part in gradients."""

    def cloned(value: Any) -> Any:
        if isinstance(value, (list, tuple)):  # of reference images
            return type(value)(cloned(one) for one in value)
        return value.clone() if isinstance(value, Tensor) else value

    return [
        [cond.clone(), {key: cloned(value) for key, value in extra.items()}]
        for cond, extra in conditioning
    ]


def _differentiable(theirs: Any, *args: Any, **named: Any) -> Tensor:
    """Overrides the host's attention: PyTorch's own, whatever the host was told to use."""
    return attention_pytorch(*args, **named)
