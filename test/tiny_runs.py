# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of tiny frames and the settings of runs that take a second."""
from __future__ import annotations

import argparse
import json

import cv2
import numpy as np

TINY = ['input.height=64', 'input.width=96', 'augment.crop_height=32', 'augment.crop_width=64',
        'model.widths=[4, 4, 8, 8, 8]', 'optim.steps=4', 'optim.batch=2', 'optim.precision=fp32',
        'optim.warm_up=1', 'run.log_every=1', 'run.validate_every=2', 'run.threads=1',
        'run.device=cpu', 'data.workers=0']


def write_scenes(root, count=4):
    """Return root/train with 96x128 frames: noise around a colour per class."""
    rng = np.random.default_rng(5)
    for part in ('IMG', 'GT'):
        (root / 'train' / part).mkdir(parents=True)
    for index in range(count):
        mask = np.repeat(rng.integers(0, 14, (6, 8)), 16, axis=0).repeat(16, axis=1)
        mask = mask.astype(np.uint8)
        image = (mask[..., None] * 17 + rng.integers(0, 17, (96, 128, 3))).astype(np.uint8)
        cv2.imwrite(str(root / 'train' / 'IMG' / f'{index}.png'), image)
        cv2.imwrite(str(root / 'train' / 'GT' / f'{index}.png'), mask)
    return root / 'train'


def parse(stage, *words):
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def losses(run):
    """Return the logged loss of each step."""
    records = [json.loads(line) for line in (run.path / 'log.jsonl').read_text().splitlines()]
    return {r['step']: r['loss'] for r in records if 'loss' in r}


class MemoryFrames:
    """Frames that lie in memory: pairs of image and mask."""

    def __init__(self, *pairs):
        self._pairs = pairs
        self.counts = np.stack([np.bincount(mask.ravel(), minlength=256)[:14]
                                for _, mask in pairs]).astype(np.int64)

    def __len__(self):
        return len(self._pairs)

    def read(self, index):
        return self._pairs[index]
