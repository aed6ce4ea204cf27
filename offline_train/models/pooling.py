# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Adaptive average pooling and upscaling of static shape, as every ONNX engine runs them."""
from __future__ import annotations

from typing import List, Tuple

from torch import nn, Tensor
import torch.nn.functional as functional


class GridPool(nn.Module):
    """Average over a grid of bins x bins windows: AdaptiveAvgPool2d in a form that exports."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, bins, bins)."""
        return pool_to(x_NCHW, (self.bins, self.bins))


def pool_to(x_NCHW: Tensor, size: Tuple[int, int]) -> Tensor:
    """
    Return (N, C, H, W) averaged to (N, C, *size), as adaptive_avg_pool2d does.

    Windows that tile the map are a plain average pool. Others (6 bins on 16 cells) overlap and
    differ in length: ONNX has no operator for them, two small constant matrices do the same.
    """
    height, width = int(x_NCHW.shape[2]), int(x_NCHW.shape[3])
    if height % size[0] == 0 and width % size[1] == 0:
        window = (height // size[0], width // size[1])
        return functional.avg_pool2d(x_NCHW, window, window)
    rows = x_NCHW.new_tensor(_averaging_rows(height, size[0]))  # (bins, H)
    columns = x_NCHW.new_tensor(_averaging_rows(width, size[1]))  # (bins, W)
    return rows @ x_NCHW @ columns.T


def resize_like(x_NCHW: Tensor, like_NCHW: Tensor) -> Tensor:
    """Return x resized bilinearly to the rows and columns of another map."""
    size = (int(like_NCHW.shape[2]), int(like_NCHW.shape[3]))
    return functional.interpolate(x_NCHW, size=size, mode='bilinear', align_corners=False)


def _averaging_rows(cells: int, bins: int) -> List[List[float]]:
    """
    Return (bins, cells): bin i averages cells floor(i * n / b) to ceil((i + 1) * n / b).

    A plain list, because what tensors compute here would be traced into the exported graph.
    """
    rows = []
    for index in range(bins):
        start, stop = index * cells // bins, -(-(index + 1) * cells // bins)
        rows.append([float(start <= cell < stop) / (stop - start) for cell in range(cells)])
    return rows
