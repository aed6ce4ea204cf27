# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Draw where the attention of a run looks in an image, before and after compression."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Dict, Tuple

import cv2
from evit_seg.core.errors import ConfigError
import numpy as np
from offline_train.compression.gates import closed_cuts
from offline_train.compression.heat_maps import attention_maps, draw_heat_maps, HeatMap
from offline_train.config import InputConfig
from offline_train.data.dataset_masks import read_image
from offline_train.data.sources import label_map_of
from offline_train.distillation.teacher import normalise
from offline_train.reporting.style import save
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network
from offline_train.surgery.cuts import apply_cuts
import torch
from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train heat_maps`."""
    parser.add_argument('--run', type=Path, required=True, help='run folder')
    parser.add_argument('--after', type=Path,
                        help='run folder of the compressed network (default: the run itself, its '
                             'closed gates cut)')
    parser.add_argument('--image', type=Path, required=True, help='an image')
    parser.add_argument('--out', type=Path, required=True, help='PNG to write')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train heat_maps`."""
    if args.out.suffix != '.png':
        raise ConfigError(f'--out: expected a name that ends in .png, got {str(args.out)!r}')
    if args.after is not None and args.after.resolve() == args.run.resolve():
        raise ConfigError(f'--after: expected another run than --run, got {str(args.after)!r}')
    image = cv2.cvtColor(read_image(args.image), cv2.COLOR_BGR2RGB)
    run, network = _open(args.run)
    before = _maps(network, image, run.config().input)
    if args.after is None:
        apply_cuts(network, closed_cuts(run, network))
        after = _maps(network, image, run.config().input)
    else:
        other, cut = _open(args.after)
        after = _maps(cut, image, other.config().input)
    save(draw_heat_maps(image, {'before': before, 'after': after}), args.out, svg=False)
    print(f'wrote {args.out}')
    return 0


def _open(path: Path) -> Tuple[RunDir, nn.Module]:
    run = RunDir.open(path)
    return run, load_network(run, len(label_map_of(run.config().data)))


def _maps(network: nn.Module, image: np.ndarray, config: InputConfig) -> Dict[str, HeatMap]:
    """Return the maps of a network for an RGB image, resized as it is when deployed."""
    resized = cv2.resize(image, (config.width, config.height), interpolation=cv2.INTER_LINEAR)
    return attention_maps(network, normalise(torch.from_numpy(resized)[None], config))
