# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Distillation terms on feature maps, with the adapters that train beside the student.

Source: ViTKD, Yang et al. 2022, arXiv 2209.02432: early maps are mimicked, late ones generated
from partly masked ones. Both terms are a mean squared error over the mean square of the teacher's
map: 0 is the teacher's map, 1 is what an answer of zeros costs. The paper's sums with weights of
3e-5 depend on the teacher's scale and size; these do not. Only the student and the adapters get a
gradient.
"""
from __future__ import annotations

from evit_seg.core.errors import ConfigError
import torch
from torch import nn, Tensor
import torch.nn.functional as functional


class Mimic(nn.Module):
    """Early features: a linear adapter, then the relative mean squared error (sec. 3.2)."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        """
        Return the term of two maps, a scalar float32.

        (N, C_student, h, w) and (N, C_teacher, H, W); the adapted map is resized bilinearly to
        the teacher's grid.
        """
        adapted = _on_grid_of(self.adapter(student_NCHW), teacher_NCHW)
        teacher = teacher_NCHW.detach().float()
        error_N1HW = (adapted.float() - teacher).square().mean(dim=1, keepdim=True)
        return error_N1HW.mean() / _power(teacher)


class Generation(nn.Module):
    """
    Late features: what is masked has to be generated from what is left (sec. 3.3).

    After the adapter, random positions give way to one learned token; two 3x3 convolutions answer
    with the teacher's map, which counts at the masked positions. Positions are drawn by torch's
    global generator, as many in every image.
    """

    def __init__(self, student_channels: int, teacher_channels: int, mask_share: float) -> None:
        """Build adapter, token and generator; `mask_share` in (0, 1) of positions is masked."""
        super().__init__()
        if not 0 < mask_share < 1:
            raise ConfigError('distil.generation_mask: expected a share between 0 and 1, '
                              f'got {mask_share!r}')
        self.mask_share = mask_share
        self.adapter = nn.Conv2d(student_channels, teacher_channels, 1)
        self.token = nn.Parameter(torch.zeros(1, teacher_channels, 1, 1))
        self.generator = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1))

    def forward(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        """
        Return the term of two maps, a scalar float32.

        (N, C_student, h, w) and (N, C_teacher, H, W); the adapted map is resized bilinearly to
        the teacher's grid before it is masked.
        """
        adapted = _on_grid_of(self.adapter(student_NCHW), teacher_NCHW)
        masked_N1HW = self._draw(adapted)
        given = torch.where(masked_N1HW, self.token.to(adapted.dtype), adapted)
        generated = self.generator(given).float()
        teacher = teacher_NCHW.detach().float()
        error_N1HW = (generated - teacher).square().mean(dim=1, keepdim=True)
        return (error_N1HW * masked_N1HW).sum() / masked_N1HW.sum() / _power(teacher)

    def _draw(self, like_NCHW: Tensor) -> Tensor:
        """Return a mask (N, 1, H, W), true at the same number of random positions per image."""
        batch, _, height, width = like_NCHW.shape
        positions = height * width
        # At least one is masked and, where there are two or more, one is left to generate from.
        count = min(max(round(self.mask_share * positions), 1), max(positions - 1, 1))
        noise = torch.rand(batch, positions, device=like_NCHW.device)
        rank = noise.argsort(dim=1).argsort(dim=1)
        return (rank < count).reshape(batch, 1, height, width)


def _on_grid_of(x_NCHW: Tensor, like_NCHW: Tensor) -> Tensor:
    """Return x on the grid of another map; as it is where the grids are one."""
    if x_NCHW.shape[2:] == like_NCHW.shape[2:]:
        return x_NCHW
    return functional.interpolate(x_NCHW, size=like_NCHW.shape[2:], mode='bilinear',
                                  align_corners=False)


def _power(teacher_NCHW: Tensor) -> Tensor:
    """Return the mean square of a map, above zero."""
    return teacher_NCHW.square().mean().clamp(min=1e-12)
