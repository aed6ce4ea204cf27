# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Split linear layers into two factors of lower rank, and softmax attention into linear cost.

A run folder in, a run folder with step 0 out: it exports and is evaluated as it is, and training
that starts from it (model.initial) wins back what was lost.
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import List, Sequence

from evit_seg.core.errors import ConfigError
from offline_train.compression.ranks import (
    AttentionPlan,
    layer_names,
    LAYERS,
    Plan,
    plan_attention,
    plan_layer,
)
from offline_train.data.sources import label_map_of
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network, write_cut_run
from offline_train.surgery.cuts import apply_cuts, Cut
from torch import nn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train low_rank`."""
    parser.add_argument('--run', type=Path, required=True, help='run folder')
    parser.add_argument('--out', type=Path, required=True, help='new run folder')
    parser.add_argument('--energy', type=float, default=0.95, metavar='SHARE',
                        help="share of a layer's squared singular values that its factors keep "
                             '(default: %(default)s); 1: only layers that lose nothing')
    parser.add_argument('--layers', choices=LAYERS, default='all',
                        help='projections of attention, layers of MLPs, or both and every other '
                             'linear layer and 1x1 convolution (default: %(default)s)')
    parser.add_argument('--linear-attention', action='store_true',
                        help='attention of linear cost in the place of softmax attention, where '
                             "that takes fewer products at the run's input size; it must be "
                             'trained on before it is of use')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
  offline_train low_rank --run runs/a --out runs/a_95 --layers attention
  offline_train train --config config/train/lpcv.yaml --out runs/a_95_tuned \\
                      model.initial=runs/a_95 optim.steps=2000
Ranks are rounded up to multiples of 8. A layer is left alone where its factors would hold as many
weights as it does, or where a side has fewer than 32 channels. Prune before: ranks come last."""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train low_rank`."""
    run = RunDir.open(args.run)
    config = run.config()
    network = load_network(run, len(label_map_of(config.data)))
    before = _parameters(network)
    attention = plan_attention(network, (config.input.height, config.input.width)) \
        if args.linear_attention else []
    layers = [plan_layer(network, name, args.energy) for name in layer_names(network, args.layers)]
    cuts = [*(p.cut for p in attention if not p.reason), *(p.cut for p in layers if p.rank)]
    print(_attention_text(attention) + _layer_text(layers), end='')
    if not cuts:
        raise ConfigError(f'--run {args.run}: nothing would change; each layer with its reason '
                          'stands above. A lower --energy factors more, now '
                          f'{args.energy!r}')
    apply_cuts(network, cuts)
    new = write_cut_run(args.out, run, network, cuts)
    print(f'{_count(cuts, "rank")} of {len(layers)} layers in two factors, '
          f'{_count(cuts, "linear")} of {len(attention)} attention blocks linear; '
          f'parameters {before} -> {_parameters(network)}')
    print(f'wrote {new.path}')
    return 0


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _count(cuts: Sequence[Cut], kind: str) -> int:
    return sum(cut.kind == kind for cut in cuts)


def _layer_text(plans: Sequence[Plan]) -> str:
    """Return a table: shape, rank, share of the energy, weights before and after."""
    if not plans:
        return ''
    width = max(len(plan.name) for plan in plans)
    lines: List[str] = [f'{"layer":<{width}} {"shape":>11} {"rank":>5} {"kept":>7} {"weights":>9} '
                        f'{"after":>9}']
    for plan in plans:
        shape = f'{plan.outputs}x{plan.inputs}'
        start = f'{plan.name:<{width}} {shape:>11}'
        lines.append(f'{start} {plan.rank:>5} {plan.kept:>7.4f} {plan.before:>9} {plan.after:>9}'
                     if plan.rank else
                     f'{start} {"-":>5} {"-":>7} {plan.before:>9} {plan.after:>9}  '
                     f'left alone: {plan.reason}')
    total = f'{"all of these":<{width}} {"":>11} {"":>5} {"":>7}'
    lines.append(f'{total} {sum(p.before for p in plans):>9} {sum(p.after for p in plans):>9}')
    return '\n'.join(lines) + '\n'


def _attention_text(plans: Sequence[AttentionPlan]) -> str:
    """Return a table: tokens, channels of a head, linear or why not."""
    if not plans:
        return ''
    width = max(len(plan.name) for plan in plans)
    lines = [f'{"attention":<{width}} {"queries":>8} {"keys":>6} {"channels":>8}']
    lines += [f'{p.name:<{width}} {p.queries or "-":>8} {p.keys or "-":>6} {p.head_dim:>8}  '
              f'{"softmax stays: " + p.reason if p.reason else "linear"}' for p in plans]
    return '\n'.join(lines) + '\n\n'
