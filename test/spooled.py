# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Spools written by hand, through the shipped writer."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from evit_seg.core.labels import LabelClass, LabelMap
from evit_seg.replay.spool import FrameSpool
import numpy as np


def write_spool(path: Path, frames: list[dict], slugs=('background', 'person')) -> Path:
    """Write frames of `index`, `stamp_ns`, `mask`, and optionally seen, close, doubt and view."""
    labels = LabelMap(tuple(LabelClass(i, slug, slug, (i, i, i)) for i, slug in enumerate(slugs)))
    segmenter = SimpleNamespace(
        manifest=SimpleNamespace(name=path.name, temperature=1.0), label_map=labels,
        bundle=SimpleNamespace(sha256='0' * 64))
    with FrameSpool(path, [], segmenter) as spool:
        for frame in frames:
            mask_HW = np.asarray(frame['mask'], np.uint8)
            spool._write({'index': frame['index'], 'stamp_ns': frame['stamp_ns'], 'first_ns': 0,
                          'shape': mask_HW.shape, 'seen': frame.get('seen', []),
                          'close': frame.get('close', []), 'doubt': frame.get('doubt', 0.0),
                          'view': frame.get('view', 0)}, mask_HW.tobytes())
    return path
