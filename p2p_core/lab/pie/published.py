"""The published measures of edited images, as PIE-Bench's own code takes them.

Ju et al. 2024 (*PnP Inversion*). What lies in the region to be edited is black in the background
measures, and counts with it. Trained networks are those of the published table: SqueezeNet (LPIPS),
DINO ViT-B/8 and CLIP ViT-L/14; where one's weights cannot be had its measures are left out.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.transforms.functional import normalize, resize

from ..outputs import outputs_of
from .cases import CLIP, DINO

COLUMNS: Mapping[str, float] = {
    "structure_distance": 1e3,
    "psnr_unedit_part": 1.0,
    "lpips_unedit_part": 1e3,
    "mse_unedit_part": 1e4,
    "ssim_unedit_part": 1e2,
    "clip_similarity_source_image": 1.0,
    "clip_similarity_target_image": 1.0,
    "clip_similarity_target_image_edit_part": 1.0,
}
"""Measures by their published names, and what the table multiplies them with."""

CLIP_KIND = "ViT-L-14-quickgelu"
"""open_clip's name for CLIP ViT-L/14 as OpenAI trained it."""
DINO_SIDE, DINO_MOST = 224, 480
"""Pixels that a picture's shorter side is scaled to, and the most that its longer one may be."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Measures:
    """The networks that there are, and why others are missing."""

    lpips: Distance | None = None
    dino: Any = None
    clip: tuple[Any, Any, Any] | None = None
    """CLIP, what it does to images first, and its tokenizer."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def load(cls, dino: str = DINO, clip: str = CLIP) -> Measures:
        """Load networks by their names or from files; what cannot be had is in `left_out`.

        Raises `ValueError` for a file that is none of such a network.
        """
        made = cls()
        for name, load in (
            ("lpips", _load_lpips),
            ("dino", lambda: _load_dino(dino)),
            ("clip", lambda: _load_clip(clip)),
        ):
            try:
                with redirect_stdout(sys.stderr):  # some tell there what they download
                    setattr(made, name, load())
            except (OSError, RuntimeError) as error:  # as they say that nothing can be downloaded
                why = str(error).strip().split("\n")[0]
                for column in COLUMNS:
                    if column.startswith({"dino": "structure"}.get(name, name)):
                        made.left_out[column] = why
        return made

    @property
    def names(self) -> set[str]:
        """The names of the measures that can be taken."""
        return set(COLUMNS) - set(self.left_out)

    @torch.no_grad()
    def take(
        self,
        picture: np.ndarray,
        edited: np.ndarray,
        region: np.ndarray,
        prompt: str,
        edited_prompt: str,
    ) -> dict[str, float]:
        """Take every measure of an edit, but those of a region that is empty.

        Pictures are uint8[height width 3], `region`, what is to be edited, bool[height width].
        """
        found: dict[str, float] = {}
        if not region.all():
            a, b = (_pixels(one) * torch.from_numpy(~region) for one in (picture, edited))
            found["psnr_unedit_part"] = float(peak_signal_noise_ratio(b, a, data_range=1.0))
            found["mse_unedit_part"] = float(F.mse_loss(b, a))
            ssim = structural_similarity_index_measure(b, a, data_range=1.0)
            found["ssim_unedit_part"] = float(torch.as_tensor(ssim))
            if self.lpips is not None:
                found["lpips_unedit_part"] = float(self.lpips(b * 2 - 1, a * 2 - 1))
        if self.dino is not None:
            found["structure_distance"] = self._structure_distance(picture, edited)
        if self.clip is not None:
            found["clip_similarity_source_image"] = self._clip_similarity(picture, prompt)
            found["clip_similarity_target_image"] = self._clip_similarity(edited, edited_prompt)
            if region.any():
                shown = edited * region[..., None].astype(np.uint8)
                name = "clip_similarity_target_image_edit_part"
                found[name] = self._clip_similarity(shown, edited_prompt)
        return found

    def _structure_distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Mean squared difference of how alike parts of a picture are, of layer 11's keys.

        Tumanyan et al. 2022. The published figures were taken of pixels from 0 to 255, not 0 to 1,
        scaled down without smoothing, and so are these.
        """

        def alike(picture: np.ndarray) -> Tensor:
            pixels = torch.from_numpy(picture).permute(2, 0, 1).float()
            pixels = resize(pixels, [DINO_SIDE], max_size=DINO_MOST, antialias=False)
            pixels = normalize(pixels, MEAN, DEVIATION)
            layer = self.dino.blocks[11].attn.qkv
            pixels = pixels[None].to(layer.weight.device)
            (output,) = outputs_of([layer], lambda: self.dino(pixels))
            _, keys, _ = output.chunk(3, dim=1)
            units = F.normalize(keys, dim=1)
            return units @ units.T

        return float(F.mse_loss(alike(b), alike(a)))

    def _clip_similarity(self, picture: np.ndarray, text: str) -> float:
        """100 × the cosine between a picture and a text, not below 0."""
        assert self.clip is not None
        model, prepare, tokenize = self.clip
        device = next(model.parameters()).device
        image = model.encode_image(prepare(Image.fromarray(picture))[None].to(device))
        words = model.encode_text(tokenize([text]).to(device))
        return float(100 * F.cosine_similarity(image, words).clamp(min=0))


def through_jpeg(picture: Image.Image) -> Image.Image:
    """Round an edited picture as the published ones were kept: JPEG, as Pillow writes it."""
    kept = BytesIO()
    picture.save(kept, "JPEG")
    return Image.open(kept, formats=["JPEG"]).convert("RGB")


def _pixels(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_lpips() -> Distance:
    metric = LearnedPerceptualImagePatchSimilarity(net_type="squeeze").eval()
    return metric.net


def _load_dino(name: str) -> Any:
    import timm

    file = Path(name).is_file()
    if not file and not timm.is_model(name):
        raise ValueError(f"Expected a model of timm or a file of {DINO}, got {name}.")
    with _damaged(file, name):
        model = timm.create_model(
            DINO if file else name,
            pretrained=not file,
            checkpoint_path=name if file else None,
            num_classes=0,
            dynamic_img_size=True,
        )
    return model.eval().to(_device())


def _load_clip(name: str) -> tuple[Any, Any, Any]:
    import open_clip

    file, tags = Path(name).is_file(), open_clip.list_pretrained_tags_by_model(CLIP_KIND)
    if not file and name not in tags:
        raise ValueError(f"Expected a file of {CLIP_KIND} or one of {', '.join(tags)}, got {name}.")
    with _damaged(file, name):
        model, _, prepare = open_clip.create_model_and_transforms(CLIP_KIND, pretrained=name)
    return model.eval().to(_device()), prepare, open_clip.get_tokenizer(CLIP_KIND)


@contextmanager
def _damaged(file: bool, name: str) -> Iterator[None]:
    """What loaders say of a file that is none of theirs is a `ValueError`."""
    try:
        yield
    except Exception as error:  # unpickling alone has a dozen kinds
        if not file:
            raise
        raise ValueError(f"Expected weights in {name}, which cannot be loaded: {error}.") from error
