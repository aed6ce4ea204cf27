# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
MobileViT's blocks with an unfold and a fold that an old TensorRT can follow.

timm reshapes to (N C n_h, p_h, n_w, p_w): images, channels and rows of patches in one axis. Here N
stays in front, no tensor has more than five axes, and an upscaling to whole patches has constant
sizes in an export. Numbers are moved, never computed with, so the results are timm's bit for bit.
Source: Mehta and Rastegari 2021, arXiv 2110.02178, sec. 3.1; timm's issue 1373.
"""
from __future__ import annotations

import importlib.util
from typing import Optional, Tuple

from torch import cat, nn, Tensor
from torch.nn.functional import interpolate


class PatchedBlock(nn.Module):
    """A MobileViT block made of the layers of timm's, under the same names."""

    def __init__(self, block: nn.Module) -> None:
        """Take over the layers of a timm.models.mobilevit.MobileVitBlock; they are not copied."""
        super().__init__()
        self.conv_kxk: nn.Module = block.conv_kxk  # type: ignore[assignment]
        self.conv_1x1: nn.Module = block.conv_1x1  # type: ignore[assignment]
        self.transformer: nn.Module = block.transformer  # type: ignore[assignment]
        self.norm: nn.Module = block.norm  # type: ignore[assignment]
        self.conv_proj: nn.Module = block.conv_proj  # type: ignore[assignment]
        self.conv_fusion: Optional[nn.Module] = block.conv_fusion  # type: ignore[assignment]
        self.patch_size: Tuple[int, int] = block.patch_size  # type: ignore[assignment]
        self.train(block.training)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the map of local and global features; H and W need not be whole patches."""
        local_NCHW = self.conv_1x1(self.conv_kxk(x_NCHW))
        size = local_NCHW.shape[-2:]
        patch_h, patch_w = self.patch_size
        whole = -(-size[0] // patch_h) * patch_h, -(-size[1] // patch_w) * patch_w
        if whole != tuple(size):
            local_NCHW = interpolate(local_NCHW, whole, mode='bilinear', align_corners=False)
        tokens = self.norm(self.transformer(unfold(local_NCHW, self.patch_size)))
        global_NCHW = fold(tokens, (x_NCHW.shape[0], *whole), self.patch_size)
        if whole != tuple(size):
            global_NCHW = interpolate(global_NCHW, size, mode='bilinear', align_corners=False)
        global_NCHW = self.conv_proj(global_NCHW)
        if self.conv_fusion is None:
            return global_NCHW
        fused: Tensor = self.conv_fusion(cat((x_NCHW, global_NCHW), dim=1))
        return fused


def unfold(x_NCHW: Tensor, patch: Tuple[int, int]) -> Tensor:
    """
    Return tokens (N p_h p_w, n_h n_w, C): one sequence per place within the patches.

    H and W are whole numbers of patches of (p_h, p_w) pixels.
    """
    n, channels, height, width = x_NCHW.shape
    patch_h, patch_w = patch
    rows, columns = height // patch_h, width // patch_w
    x = x_NCHW.reshape(n, channels, rows, patch_h, width)
    x = x.permute(0, 3, 2, 4, 1)  # (N, p_h, n_h, W, C)
    x = x.reshape(n * patch_h, rows, columns, patch_w, channels)
    x = x.permute(0, 3, 1, 2, 4)  # (N p_h, p_w, n_h, n_w, C)
    return x.reshape(n * patch_h * patch_w, rows * columns, channels)


def fold(tokens: Tensor, shape_NHW: Tuple[int, int, int], patch: Tuple[int, int]) -> Tensor:
    """Return the map (N, C, H, W) whose `unfold` gave these tokens."""
    n, height, width = shape_NHW
    channels = tokens.shape[-1]
    patch_h, patch_w = patch
    rows, columns = height // patch_h, width // patch_w
    x = tokens.reshape(n * patch_h, patch_w, rows, columns, channels)
    x = x.permute(0, 2, 3, 1, 4)  # (N p_h, n_h, n_w, p_w, C)
    x = x.reshape(n, patch_h, rows, width, channels)
    x = x.permute(0, 4, 2, 1, 3)  # (N, C, n_h, p_h, W)
    return x.reshape(n, channels, height, width)


def patched(backbone: nn.Module) -> nn.Module:
    """Return the backbone, each of timm's MobileViT blocks in it replaced by a PatchedBlock."""
    if importlib.util.find_spec('timm') is None:
        return backbone
    from timm.models.mobilevit import MobileVitBlock
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MobileVitBlock):
                setattr(parent, name, PatchedBlock(child))
    return backbone
