# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Cut filters, attention heads and hidden units out of a run's network: a smaller run folder.

Nothing is trained here: what stays keeps its weights, and accuracy comes back by training on
from the new run (`model.initial=OUT`). What was cut is recorded in its config (model.cuts).
"""
from __future__ import annotations

import argparse
from dataclasses import replace
import math
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from offline_train.compression.channel_groups import kept_count, MULTIPLE
from offline_train.compression.filters import prune_filters
from offline_train.compression.head_scores import best, head_scores, hidden_scores
from offline_train.compression.latency_ratios import prune_to_latency
from offline_train.compression.masks import check_zeros, KINDS, zero_weights
from offline_train.config import TrainConfig
from offline_train.data.crops import CropDataset
from offline_train.data.sources import open_sources, Sources
from offline_train.deployed import plain_attention
from offline_train.distillation.teacher import normalise
from offline_train.models.zoo import describe
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network, write_cut_run
from offline_train.surgery.blocks import attention_blocks, hidden_cuts, mlp_blocks
from offline_train.surgery.cuts import apply_cuts, Cut
import torch
from torch import nn, Tensor

Batch = Tuple[Tensor, Tensor]
TRACE_PX = 64
"""Side of the image that channels are followed with; which meet does not depend on it."""
CRITERIA: Dict[str, Tuple[str, ...]] = {
    'filters': ('l1', 'l2', 'taylor', 'lamp', 'latency'),
    'heads': ('l1', 'l2', 'taylor', 'attention'),
    'hidden': ('l1', 'l2', 'taylor')}
"""What each option can be chosen by."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train prune`."""
    parser.add_argument('--run', type=Path, required=True, help='run folder, left as it is')
    parser.add_argument('--out', type=Path, required=True, help='new run folder')
    parser.add_argument('--filters', type=float, metavar='RATIO',
                        help='part of the channels to cut from each group of convolutions')
    parser.add_argument('--tokens', action='store_true',
                        help='with --filters: cut the width of transformers too, the channels '
                             'that pass a LayerNorm of tokens')
    parser.add_argument('--exact', action='store_true',
                        help='with --filters: leave channels that pass any LayerNorm, so that '
                             'the network answers as if the others were zeroed')
    parser.add_argument('--heads', type=float, metavar='RATIO_OR_COUNT',
                        help='below 1: part of the heads to cut; from 1: heads kept in each block')
    parser.add_argument('--hidden', type=float, metavar='RATIO',
                        help="part of the MLPs' hidden units to cut")
    parser.add_argument('--closed-gates', action='store_true',
                        help='cut the heads and branches whose gates a run has closed')
    parser.add_argument('--zeros', nargs=2, metavar=('KIND', 'RATIO'),
                        help=f'zero weights ({", ".join(KINDS)}), as arXiv 2309.02617 did; '
                             'nothing is cut or faster')
    parser.add_argument('--criterion', default='l1',
                        choices=('l1', 'l2', 'taylor', 'lamp', 'attention', 'latency'),
                        help='what is kept, see below (default: %(default)s)')
    parser.add_argument('--latency-ratio', type=float, metavar='PART',
                        help='of --criterion latency: the latency wanted, as a part of the whole')
    parser.add_argument('--frames', type=int, default=16, metavar='N',
                        help='labelled crops for taylor and attention (default: %(default)s)')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""\
Channels, and hidden units of an MLP, are kept in multiples of {MULTIPLE}.
criteria: l1, l2    sum of absolute weights, of squares   (filters, heads, hidden)
          taylor    |weight x gradient| on labelled crops (filters, heads, hidden)
          attention what a head adds to the spatial attention map (heads)
          lamp      squares, all groups ranked together: ratios differ (filters)
          latency   cut where a layer timed here saves the most ms per lost l1, until
                    --latency-ratio is met; --filters is the most a group may lose
a quarter of the filters:  offline_train prune --run runs/a --out runs/b --filters 0.25
two heads a block, half the hidden units:
                           offline_train prune --run runs/a --out runs/b --heads 2 --hidden 0.5
two criteria: prune twice, the second time from the first one's folder
then train on:             offline_train train --config config/train/lpcv.yaml --out runs/c \\
                             model.initial=runs/b model.name=..."""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train prune`."""
    _check(args)
    run = RunDir.open(args.run)
    if args.out.exists() and any(args.out.iterdir()):
        raise ConfigError(f'--out: {args.out} is not empty and is not overwritten; name another')
    config = run.config()
    sources = open_sources(config.data)
    with plain_attention():
        network = load_network(run, len(sources.label_map))
    size = (config.input.height, config.input.width)
    before, parts_before = describe(network, size), _parts(network)
    batches = _batches(sources, config, args.frames) \
        if args.criterion in ('taylor', 'attention') else []
    cuts: List[Cut] = []
    if args.closed_gates:
        from offline_train.compression.gates import closed_cuts
        cuts += _made(network, closed_cuts(run, network))
    if args.heads is not None:
        cuts += _made(network, _head_cuts(network, args.heads, args.criterion, batches))
    if args.hidden is not None:
        cuts += _made(network, _hidden_cuts(network, args.hidden, args.criterion, batches))
    if args.filters is not None:
        example = torch.zeros(1, 3, TRACE_PX, TRACE_PX)
        if args.criterion == 'latency':
            cuts += prune_to_latency(network, example, config.input, args.latency_ratio,
                                     args.filters)
        else:
            cuts += prune_filters(network, example, args.filters, args.criterion, batches,
                                  norms='tokens' if args.tokens else
                                  'none' if args.exact else 'maps')
    if args.zeros is not None:
        kind, ratio = args.zeros
        part = zero_weights(network, kind, float(ratio), len(sources.label_map))
        print(f'{part:.2%} of the weights of convolutions and linear layers are zero now; this '
              'cuts nothing, the network is as large and as slow as before')
    after = describe(network, size)
    print(f'before: {before}\nafter:  {after}\n'
          f'        parameters x {after.parameters / before.parameters:.3f}, '
          f'GFLOP x {after.gflops / before.gflops:.3f}')
    for part_name, count in _parts(network).items():
        print(f'        {part_name}: {parts_before[part_name]} -> {count} parameters')
    write_cut_run(args.out, run, network, cuts)
    print(f'wrote {args.out}, {len(cuts)} cuts; train on from it with model.initial={args.out}')
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that say nothing or exclude each other, before anything is loaded."""
    asked = [name for name in CRITERIA if getattr(args, name) is not None]
    if not asked and args.zeros is None and not args.closed_gates:
        raise ConfigError('prune: expected what to cut, got nothing; give --filters, --heads, '
                          '--hidden, --closed-gates or --zeros')
    for name in ('tokens', 'exact'):
        if getattr(args, name) and (args.filters is None or args.criterion == 'latency'):
            raise ConfigError(f'--{name}: expected with --filters, and not with --criterion '
                              'latency')
    if args.tokens and args.exact:
        raise ConfigError('--tokens, --exact: expected one of the two, got both')
    if args.zeros is not None:
        check_zeros(*args.zeros)
    for name in asked:
        if args.criterion not in CRITERIA[name]:
            raise ConfigError(f'--criterion: --{name} can be chosen by '
                              f'{", ".join(CRITERIA[name])}, got {args.criterion!r}; prune '
                              'twice for two criteria')
    for name in ('filters', 'hidden'):
        ratio = getattr(args, name)
        if ratio is not None and not 0 < ratio < 1:
            raise ConfigError(f'--{name}: expected a part between 0 and 1, got {ratio!r}')
    heads = args.heads
    if heads is not None and (not heads > 0 or (heads >= 1 and heads != int(heads))):
        raise ConfigError('--heads: expected a part between 0 and 1 to cut, or a whole number of '
                          f'heads to keep, got {heads!r}')
    if (args.criterion == 'latency') != (args.latency_ratio is not None):
        raise ConfigError('--latency-ratio: expected with --criterion latency, and only there, '
                          f'got {args.latency_ratio!r} with {args.criterion!r}')
    if args.latency_ratio is not None and not 0 < args.latency_ratio < 1:
        raise ConfigError('--latency-ratio: expected a part between 0 and 1, got '
                          f'{args.latency_ratio!r}')
    if args.frames < 1:
        raise ConfigError(f'--frames: expected 1 or more, got {args.frames!r}')


def _made(network: nn.Module, cuts: Sequence[Cut]) -> Sequence[Cut]:
    apply_cuts(network, cuts)
    return cuts


def _head_cuts(network: nn.Module, wanted: float, criterion: str,
               batches: Sequence[Batch]) -> List[Cut]:
    """Return cuts that leave each block its best heads, one at least."""
    blocks = attention_blocks(network)
    scores = head_scores(network, blocks, criterion, batches)
    cuts = []
    for block in blocks:
        keep = int(wanted) if wanted >= 1 else \
            max(math.ceil((1 - wanted) * block.heads - 0.5), 1)
        if keep < block.heads:
            cuts.append(Cut('heads', block.name, tuple(best(scores[block.name], keep))))
    if not cuts:
        raise ConfigError(f'--heads {wanted:g}: nothing to cut, the blocks of this network have '
                          f'{[block.heads for block in blocks]} heads')
    return cuts


def _hidden_cuts(network: nn.Module, ratio: float, criterion: str,
                 batches: Sequence[Batch]) -> List[Cut]:
    """Return cuts that leave each MLP its best hidden units, a multiple of 8."""
    blocks = mlp_blocks(network)
    scores = hidden_scores(network, blocks, criterion, batches)
    cuts: List[Cut] = []
    for block in blocks:
        keep = kept_count(block.hidden, ratio)
        if keep < block.hidden:
            cuts += hidden_cuts(block, best(scores[block.name], keep))
    if not cuts:
        raise ConfigError(f'--hidden {ratio!r}: nothing to cut, the MLPs of this network have '
                          f'{[block.hidden for block in blocks]} hidden units, and {MULTIPLE} '
                          'or a multiple stay')
    return cuts


def _batches(sources: Sources, config: TrainConfig, count: int) -> List[Batch]:
    """Return labelled crops of the training frames, their tones as they are."""
    if not sources.train:
        raise ConfigError('--criterion: taylor and attention need labelled frames, the run '
                          'names none to learn from (data.train or data.dataset)')
    augment = replace(config.augment, tone=0.0, brightness=0.0, saturation=0.0, degrade=0.0,
                      rotate=0.0, copy_paste=0.0)
    crops = CropDataset(sources.train, sources.label_map, replace(
        config, augment=augment, loss=replace(config.loss, stride=1)))
    found = (crops[index] for index in range(count))
    return [(normalise(crop['image'][None], config.input), crop['target'][None])
            for crop in found]


def _parts(network: nn.Module) -> Dict[str, int]:
    """Return the parameters of each part of a network, such as backbone, decoder, head."""
    counts = {name: sum(p.numel() for p in part.parameters())
              for name, part in network.named_children()}
    return {name: count for name, count in counts.items() if count}
