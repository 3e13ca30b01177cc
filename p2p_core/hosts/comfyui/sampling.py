"""Sampling source and edits side by side (paper Algorithm 1)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...attention_maps import WordMaps
from ...blending import Blending
from ...controller import Rows
from ...inversion.record import Inversion, Spacing
from ...inversion.task import Found
from .attention import attach
from .blending import blended
from .conditioning import CONTROLLER_KEY, Conditioning, EncodedController, Payload, batched
from .controlnets import by_block
from .families import family_of
from .known import ADAPTIVE, known
from .previews import side_by_side
from .replaying import apply, check, name_of
from .stepping import asked_beside, begun


class EditGuider:
    """A guider that samples a source and its edits in one batch, with another guider's guidance.

    The other guider, one of the host's or of an extension's, brings the model, the negative prompt
    and the scales; the controller's prompts take the place of its positive prompt. It is not
    changed. `positive` is the controller's conditioning after other nodes had it, where the other
    guider does not have it already; `sigmas` is the whole schedule where a run is only a part of
    it, so that windows refer to the whole; `continues` says that latents already hold all rows, as
    an earlier run left them. With an `inversion` the sources are its images, whatever the noise;
    `give_way` is told if noise levels for a whole run are not the inversion's, which are then taken
    in their place; without it other levels are an error.

    Raises `ValueError` for a guider without a positive prompt and for a `positive` of another make.
    """

    def __init__(
        self,
        guider: Any,
        encoded: EncodedController,
        *,
        positive: Conditioning | None = None,
        sigmas: Tensor | None = None,
        continues: bool = False,
        inversion: Inversion | None = None,
        spacing: Spacing | None = None,
        give_way: Callable[[str], None] | None = None,
    ) -> None:
        self.guider, self.encoded = guider, encoded
        self.sigmas, self.continues = sigmas, continues
        self.inversion, self.spacing, self.give_way = inversion, spacing, give_way
        self.masks: Tensor | None = None
        if "positive" not in getattr(guider, "original_conds", {}):
            raise ValueError(
                "Expected a guider with a positive prompt, such as CFGGuider or DualCFGGuider, got "
                f"{type(guider).__name__}. Connect another, or none."
            )
        if positive is None:
            own = _as_conditioning(guider.original_conds["positive"])
            positive = own if _made_by_a_controller(own) else encoded.conditioning
        self.positive = positive
        if not _made_by_a_controller(positive):
            raise ValueError(
                "Expected a positive conditioning that the P2P Controller made, got another: write "
                "the prompt into the controller, and leave positive unconnected, or connect the "
                "controller's own positive output, through other nodes or not."
            )

    @property
    def model_patcher(self) -> Any:
        return self.guider.model_patcher

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        maps: tuple[WordMaps, ...] = (),
    ) -> Tensor:
        """Sample all rows: sources, then each edit's images; `masks` then holds their masks.

        A `denoise_mask` is the sources', and their edits have the same. Raises `ValueError` for
        latents and conditionings that don't fit the controller or the inversion, and for a result
        that is not finite.
        """
        model = self.guider.model_patcher
        sides = family_of(model).sides
        _check_latent(model, latent_image)
        rows = self.rows(latent_image.shape[0])
        sigmas, whole = self._levels(sigmas)
        levels = whole.tolist()
        blending = Blending(
            self.encoded.controller,
            rows,
            sides,
            latent_image.shape[-2:],
            levels,
            self._restored(sampler),
        )
        conditionings = {
            name: self.positive if name == "positive" else _as_conditioning(conds)
            for name, conds in self.guider.original_conds.items()
        }
        patched, found = attach(model), dict[str, Found]()
        if self.inversion is not None:
            check(
                self.inversion,
                self.guider,
                self.encoded,
                conditionings,
                sampler,
                sigmas,
                self.spacing,
                whole,
                seed if noise.any() else None,
            )
            self.inversion.check_latent(
                latent_image[rows.source_block],
                begins=self.inversion.drawn is None or bool(noise.any()),
            )
            if denoise_mask is not None and self.inversion.drawn is not None:
                raise ValueError(
                    "Expected no noise mask beside a sampled source, got one. Take the mask off "
                    "the latent (P2P Local Blend Mask takes one), or leave the inversion out."
                )
        if self.inversion is not None and self.inversion.drawn is None:
            if noise.any() or denoise_mask is not None or self.continues:
                raise ValueError(
                    "Expected no noise, noise mask or continued run beside an inversion, which "
                    "says where sampling starts. Connect DisableNoise, take the mask off the "
                    "latent (P2P Local Blend Mask takes one), and sample all steps at once."
                )
            patched, conditionings = apply(self.inversion, patched, self.encoded, conditionings)
            found["negative"] = self.inversion.found
        payload = Payload(
            self.encoded.controller,
            rows,
            (*blending.maps.values(), *maps),
            tuple(levels),
            self.continues,
            known=known(blending.path, rows, name_of(sampler), comfy.samplers.SAMPLER_NAMES),
            values=blending.values,
        )
        guider = copy.copy(self.guider)
        guider.original_conds = {}
        guider.inner_set_conds(
            {
                name: batched(given, payload, name, found.get(name))
                for name, given in by_block(conditionings, rows).items()
            }
        )
        guider.model_patcher = patched
        guider.model_options = guider.model_patcher.model_options
        if blending:
            sampler = blended(blending, sampler)
        if self.inversion is not None and self.inversion.drawn is None:
            sampler = _along(self.inversion, sampler, rows, levels)
        result = guider.sample(
            rows.of_sources(noise[rows.source_block]),
            latent_image if self.continues else rows.of_sources(latent_image),
            sampler,
            sigmas,
            None if denoise_mask is None else rows.of_sources(_fitted(denoise_mask, rows.sources)),
            callback,
            disable_pbar,
            seed,
        )
        rows.check_finite(result)
        self.masks = blending.all_masks()
        return result

    def _restored(self, sampler: Any) -> Found | None:
        """What the sources are set to; nothing where they were sampled in other steps than here."""
        if self.inversion is None:
            return None
        adaptive = self.inversion.drawn is not None and name_of(sampler) in ADAPTIVE
        return None if adaptive else self.inversion.restored

    def _levels(self, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """The noise levels to sample, and those that windows refer to."""
        whole = sigmas if self.sigmas is None else self.sigmas
        if self.inversion is None or self.inversion.drawn is not None:
            return sigmas, whole
        if self.give_way is None or not len(sigmas) or sigmas[-1] != 0:
            return sigmas, whole
        own = self.inversion.sigmas.to(sigmas)
        if own.shape != sigmas.shape or not torch.allclose(own, sigmas, rtol=1e-4):
            self.give_way(
                f"from the inversion: {len(own) - 1} steps from {float(own[0]):.4g}, not "
                f"{len(sigmas) - 1} from {float(sigmas[0]):.4g}"
            )
        return own, own

    def rows(self, latents: int) -> Rows:
        """Lay out so many latents as a batch; raises `ValueError` if they cannot continue."""
        edits = len(self.encoded.controller.branches)
        return Rows.continuing(latents, edits) if self.continues else Rows(latents, edits)


@dataclass(frozen=True)
class Result:
    """What sampling gave: latents as the host passes them, masks float[images height width]."""

    source: dict[str, Any]
    edited: dict[str, Any]
    masks: Tensor
    """Of every edited image, at the latent's resolution; ones where it has no local blend."""


def stock_levels(model: Any, steps: int, sampler: str, scheduler: str, denoise: float) -> Tensor:
    """The noise levels that the stock KSampler has with these settings: float[levels]."""
    return comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler=sampler,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    ).sigmas


def sample(
    model: Any,
    encoded: EncodedController,
    *,
    negative: Conditioning,
    latent: dict[str, Any],
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    denoise: float = 1.0,
    positive: Conditioning | None = None,
    edited: dict[str, Any] | None = None,
    start_at_step: int = 0,
    end_at_step: int | None = None,
    add_noise: bool = True,
    leftover_noise: bool = False,
    inversion: Inversion | None = None,
    maps: tuple[WordMaps, ...] = (),
) -> Result:
    """Sample source and edits side by side, as the stock KSampler and KSamplerAdvanced would.

    The source latent is what those make of the source prompt with the same settings. `edited` are
    the edited images' latents to go on from where `latent` holds the source's. With an `inversion`
    of `latent` sampling starts where that says, and `seed` does nothing. Raises `ValueError` for a
    model without cross-attention, latents of the wrong shape, conditionings that don't match,
    settings that are not the inversion's, `maps` of a run without steps, and a result that is not
    finite.
    """
    given = inversion is not None and inversion.drawn is None  # an image, not a sampled source
    own = "euler" if given else sampler_name  # some samplers have own levels
    whole = stock_levels(model, steps, own, scheduler, denoise)
    sigmas = whole.clone()
    if end_at_step is not None and end_at_step < len(sigmas) - 1:
        sigmas = sigmas[: end_at_step + 1]
        if not leftover_noise:
            sigmas[-1] = 0
    sigmas = sigmas[start_at_step:]
    if not encoded.controller.branches:
        edited = None  # there are none to go on from
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(encoded.conditioning, negative)
    guider.set_cfg(cfg)
    edits = EditGuider(
        guider,
        encoded,
        positive=positive,
        sigmas=whole,
        continues=edited is not None,
        inversion=inversion,
        spacing=Spacing(steps, scheduler, denoise),
    )
    samples = samples_of(model, latent)
    if add_noise and not given:
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    else:
        noise = torch.zeros_like(samples, device="cpu")
    start, mask = samples, latent.get("noise_mask")
    if edited is not None:
        others, count = samples_of(model, edited), len(encoded.controller.branches)
        if others.shape != (count * len(samples), *samples.shape[1:]):
            raise ValueError(
                f"Expected {count * len(samples)} edited latents to go on from, {count} for each "
                f"source and of its shape {list(samples.shape[1:])}, got {len(others)} of "
                f"{list(others.shape[1:])}. Connect source and edited of one and the same sampler."
            )
        start = torch.cat([samples, others.to(samples)])
    if len(sigmas) < 2:
        if maps:
            raise ValueError(
                "Expected a run of at least one step to look at, got one without: no steps were "
                "sampled. Raise denoise above 0, and start before the last step."
            )
        result = start if edited is not None else edits.rows(len(start)).of_sources(start)
        edits.masks = torch.ones(len(result) - len(samples), *samples.shape[-2:])
    else:
        result = edits.sample(
            noise,
            start,
            comfy.samplers.sampler_object(sampler_name),
            sigmas,
            mask,
            side_by_side(
                latent_preview.prepare_callback(model, len(sigmas) - 1), edits.rows(len(start))
            ),
            not comfy.utils.PROGRESS_BAR_ENABLED,
            seed,
            maps,
        ).to(comfy.model_management.intermediate_device())
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    alone = {key: value for key, value in kept.items() if key not in ("batch_index", "noise_mask")}
    assert edits.masks is not None
    return Result(
        {**kept, "samples": result[: len(samples)]},
        {**alone, "samples": result[len(samples) :]},
        edits.masks,
    )


def _along(inversion: Inversion, sampler: Any, rows: Rows, sigmas: list[float]) -> Any:
    """Copy a sampler so that all rows begin where an inversion does, and are asked about there."""

    def residual(sigma: float) -> Tensor | None:
        found = inversion.found.residual_at(sigma, sigmas)
        return None if found is None else rows.of_sources(found)

    return asked_beside(begun(sampler, rows.of_sources(inversion.found.trajectory[0])), residual)


def _fitted(mask: Tensor, sources: int) -> Tensor:
    """A noise mask, one for each source, as the host would fit it to them in a run of their own."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    return comfy.utils.repeat_to_batch_size(mask, sources)


def _made_by_a_controller(conditioning: Conditioning) -> bool:
    return any(CONTROLLER_KEY in extra for _, extra in conditioning)


def _as_conditioning(conds: list[dict[str, Any]]) -> Conditioning:
    """A guider's conditionings as nodes pass them: the reverse of the host's `convert_cond`."""
    return [
        [cond["cross_attn"], {k: v for k, v in cond.items() if k not in ("cross_attn", "uuid")}]
        for cond in conds
    ]


def samples_of(model: Any, latent: dict[str, Any]) -> Tensor:
    """Take a node's latent images; raises `ValueError` for other latents than the model's."""
    samples = comfy.sample.fix_empty_latent_channels(model, unnested(latent["samples"]))
    _check_latent(model, samples)
    return samples


def unnested(samples: Any) -> Tensor:
    """Take latent images that are one tensor; raises `ValueError` for nested ones."""
    if getattr(samples, "is_nested", False):
        raise ValueError(
            "Expected one latent image or a batch of them, got a nested latent. "
            "Sample its parts apart."
        )
    return samples


def _check_latent(model: Any, samples: Tensor) -> None:
    if not len(unnested(samples)):
        raise ValueError(
            "Expected at least one latent image, got a batch of none. "
            "Give a latent of as many images as sources are wanted."
        )
    wanted = model.get_model_object("latent_format")
    channels, frames = wanted.latent_channels, getattr(wanted, "latent_dimensions", 2) == 3
    if samples.ndim != 4 + frames or samples.shape[1] != channels:
        raise ValueError(
            f"Expected a latent of shape [images, {channels}, {'frames, ' * frames}height, width], "
            f"got {list(samples.shape)}. "
            "Encode the image with this model's own VAE, or use an empty latent for this kind of "
            "model."
        )
