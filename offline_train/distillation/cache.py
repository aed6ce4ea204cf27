# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A teacher's logits of whole frames, computed once and kept on disk as float16.

Each frame is seen as it is deployed (stretched to the input size, colours untouched); a crop's
logits are then sampled from its frame's map. It saves the teacher's whole forward pass and costs
the teacher's view of the crop's changed tones.
"""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Callable, List, Sequence, Tuple

import cv2
import numpy as np
from offline_train.config import InputConfig
from offline_train.data.folder import Frames
from offline_train.distillation.teacher import Teacher
import torch
from torch import Tensor
import torch.nn.functional as functional

DONE = 'sizes.npy'


class CachedLogits:
    """
    Logits of all frames of one or more sources, sampled for crops.

    A frame's number counts through the sources in their order, as crops count them. `identity`
    names the teacher and the data; it decides whether an earlier cache is used again.
    """

    def __init__(self, folder: Path, identity: str, teacher: Teacher, sources: Sequence[Frames],
                 size: InputConfig, progress: Callable[[str], None] = print) -> None:
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
        if not (self._folder / DONE).is_file():
            _fill(self._folder, teacher, sources, (size.height, size.width), progress)
        self._logits = np.load(self._folder / 'logits.npy', mmap_mode='r')  # (frames, C, h, w)
        self._sizes_hw = np.load(self._folder / DONE)
        self._stride = size.height // self._logits.shape[2]

    def crops(self, frame_N: Tensor, window_N6: Tensor, size_hw: Tuple[int, int]) -> Tensor:
        """
        Return float32 logits (N, C, h, w) of crops at the teacher's stride.

        frame_N: numbers of their frames; window_N6: affine maps from crop pixels to frame pixels
        (x, y; centres at whole numbers); size_hw: the crops' size in pixels.
        """
        frames = frame_N.cpu().numpy()
        logits = torch.from_numpy(np.stack([self._logits[i] for i in frames]).astype(np.float32))
        height, width = (side // self._stride for side in size_hw)
        x = (torch.arange(width) + 0.5) * self._stride - 0.5
        y = (torch.arange(height) + 0.5) * self._stride - 0.5
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width),
                            torch.ones(height, width)], dim=-1)
        source = torch.einsum('nij,hwj->nhwi', window_N6.cpu().float().reshape(-1, 2, 3), grid)
        size_xy = torch.from_numpy(self._sizes_hw[frames][:, ::-1].copy()).float()
        place = 2 * (source + 0.5) / size_xy[:, None, None] - 1
        return functional.grid_sample(logits, place, mode='bilinear', padding_mode='border',
                                      align_corners=False)


def _fill(folder: Path, teacher: Teacher, sources: Sequence[Frames], size_hw: Tuple[int, int],
          progress: Callable[[str], None]) -> None:
    """Write the maps of all frames; the sizes come last and say that all is there."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(frames) for frames in sources)
    sizes: List[Tuple[int, ...]] = []
    kept = None
    for frames in sources:
        for index in range(len(frames)):
            image = frames.read(index)[0]
            seen = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
            logits = teacher.logits(torch.from_numpy(seen)[None])[0].cpu().numpy()
            if kept is None:
                kept = np.lib.format.open_memmap(folder / 'logits.npy', 'w+', np.float16,
                                                 (total, *logits.shape))
            kept[len(sizes)] = logits
            sizes.append(image.shape[:2])
            if len(sizes) % 200 == 0:
                progress(f"the teacher's logits of {len(sizes)} of {total} frames in {folder}")
    del kept  # flushes the map
    partial = folder / 'sizes.partial.npy'
    np.save(partial, np.array(sizes))
    partial.rename(folder / DONE)
