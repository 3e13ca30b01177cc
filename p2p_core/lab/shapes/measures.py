"""How alike two pictures are, and where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize
from torchmetrics.functional.image import structural_similarity_index_measure

from ...demo.scenes import SIZE


def ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Measure structural similarity (Wang et al. 2004) of uint8 pictures, mean over a region."""
    x, y = (torch.from_numpy(image / 255).permute(2, 0, 1)[None] for image in (a, b))
    _, index = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    return float(index[0].permute(1, 2, 0)[torch.from_numpy(where)].mean())


def structure_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Measure how differently two pictures' parts resemble each other: 0 for the same layout.

    Mean squared difference of the cosine similarities between 8×8 patches, means taken off: the
    published measure's self-similarity, on pixels for want of a trained network.
    """

    def alike(image: np.ndarray) -> np.ndarray:
        side = SIZE // 8
        patches = image.astype(float).reshape(side, 8, side, 8, 3).swapaxes(1, 2)
        patches = patches.reshape(side * side, -1)
        patches = patches - patches.mean(0)
        patches /= np.linalg.norm(patches, axis=1, keepdims=True) + 1e-6
        return patches @ patches.T

    return float(np.square(alike(a) - alike(b)).mean())


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor], where: np.ndarray) -> float:
    """Measure how differently two pictures look in a region, bool[height width]; 0: the same.

    As LPIPS (Zhang et al. 2018) without its learned weights, in features of a network's levels,
    float[channels height width] each: squared distances of unit vectors, mean over region and
    levels.
    """
    distances: list[Tensor] = []
    region = torch.from_numpy(where.astype(np.float32))[None]
    for one, other in zip(a, b, strict=True):
        one, other = (normalize(features.float().cpu(), dim=0) for features in (one, other))
        squares = (one - other).square().sum(0, keepdim=True)
        weights = adaptive_avg_pool2d(region, (squares.shape[-2], squares.shape[-1]))
        distances.append((squares * weights).sum() / weights.sum())
    return float(torch.stack(distances).mean())
