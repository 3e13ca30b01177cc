"""Inverting images in ComfyUI: the host loads, patches and tidies up as for any sampling run.

A method runs in the place of a sampler. It wants gradients, which the host's nodes are run without:
here inference mode is off, weights that were loaded in it are exchanged for equal ones that a
gradient can pass, attention is PyTorch's own, and transformer blocks are evaluated a second time
instead of being remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch
from torch import Tensor

from ...inversion.gradients import trainable
from ...inversion.methods import Method, Options
from ...inversion.record import Inversion, psnr, summary
from ...inversion.task import Embedding, Found, Progress, Task, replay
from .attention import cross_attention_blocks
from .conditioning import Conditioning
from .replaying import check_model, probe
from .sampling import samples_of
from .self_attention import OVERRIDE


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
) -> Inversion:
    """The inversion of a node's latent, as P2P KSampler takes it.

    `prompt` describes the image; empty works, but leaves edits no words to hold on to. `seed` is
    that of the noise, for methods that add some. Raises
    `ValueError` for models and latents that cannot be inverted, and as `invert` does.
    """
    check_model(model)
    cross_attention_blocks(model)
    samples = samples_of(model, latent)
    if "noise_mask" in latent:
        raise ValueError(
            "Expected a latent without a noise mask, got one with it. Encode the image with VAE "
            "Encode; P2P Local Blend Mask takes a mask of where the image may change."
        )
    sigmas = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler="euler",
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    ).sigmas
    source = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))

    def draw(latents: Tensor, n: int) -> Tensor:
        """As the host's samplers do."""
        number = (seed + n) % 2**64
        return comfy.sample.prepare_noise(latents.cpu(), number, latent.get("batch_index"))

    found, result = invert(
        model,
        lambda task: options(task, draw),
        source=source,
        negative=negative,
        latent=samples,
        sigmas=sigmas,
        guidance=guidance,
        watch=watch,
        low_memory=low_memory,
    )
    samples = samples.cpu()
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
    )


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
    """What a method finds for a latent image, and the latent that sampling will make of it.

    The trajectory is in the sampler's space, the returned latent float[images channels height
    width] as nodes pass them. `low_memory` evaluates transformer blocks twice where there are
    gradients. `watch` is told of every evaluation and stops the inversion by raising.

    Raises `ValueError` for conditionings of more than one plain entry and as the method does.
    """
    for name, conditioning in (("source", source), ("negative", negative)):
        if len(conditioning) != 1 or any(key in conditioning[0][1] for key in PARTIAL):
            raise ValueError(
                f"Expected a {name} conditioning of one plain prompt, got "
                f"{len(conditioning)} entries or one with an area, a mask, a range of steps or a "
                "ControlNet. Connect a text encoder's output as it is."
            )
    if getattr(model, "is_dynamic", bool)():
        model = model.get_non_dynamic_delegate()
    sampler = _Inverting(method, guidance, watch, low_memory)
    with torch.inference_mode(False):
        patched = model.clone()
        patched.model_options.setdefault("transformer_options", {})[OVERRIDE] = _differentiable
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(_normal(source), _normal(negative))
        comfy.model_management.load_models_gpu([patched], force_full_load=True)
        clean = latent.detach().clone()
        result = guider.sample(torch.zeros_like(clean), clean, sampler, sigmas.clone())
    assert sampler.found is not None
    return sampler.found, result


PARTIAL = ("area", "mask", "control", "start_percent", "end_percent", "strength", "hooks", "gligen")
"""What an entry of a conditioning may have that makes it one of a part of the image or the run."""


class _Inverting(comfy.samplers.Sampler):
    """The host's sampler that inverts: from the latent image to noise and back."""

    def __init__(
        self,
        method: Method,
        guidance: float,
        watch: Callable[[Progress], None],
        low_memory: bool,
    ) -> None:
        self.method, self.guidance = method, guidance
        self.watch, self.low_memory = watch, low_memory
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
        network, options = model_wrap.inner_model, extra_args["model_options"]

        def denoise(x: Tensor, sigma: float, *texts: Embedding) -> Sequence[Tensor]:
            conds: list[Any] = [[_with_tokens(text)] for text in texts]
            level = x.new_full((len(x),), sigma)
            return comfy.samplers.calc_cond_batch(network, conds, x, level, options)

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
            self.guidance,
            self.watch,
        )
        blocks = [
            module
            for module in network.diffusion_model.modules()
            if isinstance(module, BasicTransformerBlock)
        ]
        with trainable(network.diffusion_model, blocks, self.low_memory):
            self.found = self.method(task)
        with torch.no_grad():
            return replay(replace(task, watch=lambda progress: None), self.found)


def _with_tokens(text: Embedding) -> dict[str, Any]:
    """The host's conditioning of an embedding, with its tokens."""
    tokens = comfy.conds.CONDCrossAttn(text.tokens)
    return {**text.rest, "model_conds": {**text.rest["model_conds"], "c_crossattn": tokens}}


def _normal(conditioning: Conditioning) -> Conditioning:
    """The same conditioning, made of tensors that can take part in gradients."""
    return [
        [
            cond.clone(),
            {key: v.clone() if isinstance(v, Tensor) else v for key, v in extra.items()},
        ]
        for cond, extra in conditioning
    ]


def _differentiable(theirs: Any, *args: Any, **named: Any) -> Tensor:
    """Overrides the host's attention: PyTorch's own, whatever the host was told to use."""
    return attention_pytorch(*args, **named)
