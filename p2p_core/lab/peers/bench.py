"""What an edit costs in diffusers, beside its community pipeline for Prompt-to-Prompt.

That pipeline (examples/community/pipeline_prompt2prompt.py in diffusers' repository) makes every
attention map, stores those of up to 32×32 pixels, edits them and multiplies them out. `Explicit`
does the same here; with the file at hand, the pipeline itself is measured too.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ...calls import CallEdits
from ...controller import Chain, Rows, plan
from ...edits import SelfInjection, WordSwap
from ...hosts.diffusers.attention import Call, Processor, cross_attention_sides, replaced
from ...hosts.diffusers.demo import assembled
from ...hosts.diffusers.pipeline import Model
from ...hosts.diffusers.sampling import Settings, sample
from ...schedules import Schedule, Window
from ...unet import joined
from ..meter import compare
from .explicit import REPLACED, Explicit, Store

Work = Callable[[], Tensor]

PROMPT, EDITED = "a red circle on the grass", "a red star on the grass"


@dataclass(frozen=True)
class Bench:
    """A model to be timed at latents of `side` × `side` and so many steps."""

    model: Model
    side: int
    steps: int

    @classmethod
    def demo(cls) -> Bench:
        made = Model.demo()
        return cls(_placed(made), 16, 10)

    @classmethod
    def sd15(cls, side: int | None = None) -> Bench:
        """Make SD1.5's architecture with random weights: 512×512 on an accelerator, else 256×256.

        Or of latents of another `side`.
        """
        accelerator = torch.cuda.is_available()
        torch.manual_seed(0)
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
        pipeline = assembled(unet, AutoencoderKL(latent_channels=4), text, "epsilon")
        if accelerator:
            pipeline.to(torch.float16)
        made = _placed(Model(pipeline))
        return cls(made, side or (64 if accelerator else 32), 50 if accelerator else 2)

    def noise(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, 4, self.side, self.side, generator=generator)

    def ours(self) -> Work:
        """Sample source and edit, attention injected all through, by `sampling.sample`."""
        chain = self._chain()
        blank, noise = torch.zeros(1, 4, self.side, self.side), self.noise()

        def work() -> Tensor:
            settings = Settings(self.steps, 7.5, scheduler=self._scheduler())
            made = sample(self.model, PROMPT, [chain], blank, settings, noise=noise, quiet=True)
            return torch.cat([made.source, made.edited]).cpu() * self.model.scale

        return work

    def plain(self) -> Work:
        """Sample a batch of two by diffusers' own pipeline, without an edit."""
        return lambda: self._pipeline(self.model.pipeline)

    def explicit(self) -> Work:
        """Sample the same swap by explicit maps."""

        def work() -> Tensor:
            unet = self.model.pipeline.unet
            names = list(unet.attn_processors)
            store, mapper = Store(len(names)), self._mapper()
            layers = {name: Explicit(store, mapper, "attn2" in name) for name in names}
            with replaced(unet, layers):
                return self._pipeline(self.model.pipeline)

        return work

    def community(self, path: Path) -> Work:
        """Sample the same swap by the community pipeline in this file.

        Raises `ValueError` for a file that is not it.
        """
        spec = importlib.util.spec_from_file_location("community_prompt2prompt", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ValueError(f"Expected diffusers' pipeline_prompt2prompt.py, got {path}.")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (ImportError, SyntaxError) as error:
            raise ValueError(f"Expected diffusers' pipeline in {path}, but {error}.") from error
        kind = getattr(module, "Prompt2PromptPipeline", None)
        if kind is None:
            raise ValueError(f"Expected a Prompt2PromptPipeline in {path}, which has none.")
        parts = dict(self.model.pipeline.components)
        parts |= {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
        unet = self.model.pipeline.unet

        def work() -> Tensor:
            before = unet.attn_processors
            pipeline = kind(**parts, requires_safety_checker=False)
            edit = {"edit_type": "replace", "n_cross_replace": 1.0, "n_self_replace": 1.0}
            try:
                return self._pipeline(pipeline, cross_attention_kwargs=edit)
            finally:
                unet.set_attn_processor(before)

        return work

    def layer(self, explicit: bool) -> Work:
        """Run the largest block's self- and cross-attention alone, as either makes them edited.

        Of source and edit, with the rows of the negative prompt.
        """
        block = self.model.pipeline.unet.down_blocks[0].attentions[0].transformer_blocks[0]
        rows = Rows(1, 1)
        like = {"device": self.model.device, "dtype": self.model.dtype}
        pixels = torch.randn(4, self.side**2, block.attn1.to_q.in_features, **like)
        text = torch.randn(4, self.model.length, block.attn2.to_k.in_features, **like)
        controller = plan(PROMPT, [self._chain()], self.model.read)
        size = torch.Size((self.side, self.side))

        def ours() -> Tensor:
            made = CallEdits(((controller, rows, 2),), 0.5, self.model.length).rows()
            sides = cross_attention_sides(self.model.pipeline.unet)
            call = Call(latent=(self.side, self.side), sides=sides)
            call.cross, call.own = joined(made, 4, size, pixels.device)
            return Processor(call)(block.attn1, pixels) + Processor(call)(block.attn2, pixels, text)

        def theirs() -> Tensor:
            own, cross = (Explicit(Store(2), self._mapper(), kind) for kind in (False, True))
            return own(block.attn1, pixels) + cross(block.attn2, pixels, text)

        return torch.no_grad()(theirs if explicit else ours)

    def _scheduler(self) -> Any:
        return DDIMScheduler.from_config(self.model.pipeline.scheduler.config)

    def _pipeline(self, pipeline: Any, **more: Any) -> Tensor:
        """Source and edit from one noise by a pipeline of diffusers: their latents."""
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = self._scheduler()
        noise = self.noise().to(self.model.device, self.model.dtype).repeat(2, 1, 1, 1)
        return pipeline(
            [PROMPT, EDITED],
            height=self.side * 8,
            width=self.side * 8,
            num_inference_steps=self.steps,
            guidance_scale=7.5,
            latents=noise,
            output_type="latent",
            **more,
        ).images.cpu()

    def _chain(self) -> Chain:
        """The swap as the pipeline makes it, all through, in layers as small as there."""
        injection = SelfInjection(Window(), min(1.0, REPLACED**0.5 / self.side))
        return (WordSwap("circle", "star", schedule=Schedule(), self_injection=injection),)

    def _mapper(self) -> Tensor:
        """Which source token each edited token takes its map from: float[tokens tokens]."""
        controller = plan(PROMPT, [self._chain()], self.model.read)
        (moment,) = controller.at(0.5, self.model.length)
        return moment.map_edit.multiplied.inject.to(self.model.device, self.model.dtype)


def _placed(model: Model) -> Model:
    if torch.cuda.is_available():
        model.pipeline.to("cuda")
    return model


def beside_peers(bench: Bench, repeats: int, pipeline: Path | None = None) -> dict[str, Any]:
    """Measure our swap's time and memory, peer = 1, and how far its latents are from the peer's.

    Memory is the peak above the model's weights: of the whole run, and of the attention in its
    largest block alone. Beside explicit maps, the community pipeline if its file is given, and
    diffusers' own pipeline without an edit.
    """
    ours = bench.ours()
    peers = {"explicit_maps": bench.explicit(), "without_an_edit": bench.plain()}
    if pipeline is not None:
        peers["community_pipeline"] = bench.community(pipeline)
    attention = compare("attention alone", bench.layer(False), bench.layer(True), repeats)
    report: dict[str, Any] = {
        "pixels": bench.side * 8,
        "steps": bench.steps,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "attention": asdict(attention),
    }
    for name, peer in peers.items():
        report[name] = asdict(compare(name, ours, peer, repeats))
        if name != "without_an_edit":
            made, theirs = ours(), peer()
            report[name]["difference"] = float((made - theirs).abs().max() / theirs.abs().max())
    return report
