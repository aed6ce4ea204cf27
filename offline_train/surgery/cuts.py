# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What was cut out of a network: a list of lines that is done again on a fresh one.

A run's configuration holds the list (model.cuts), so that a cut network is built from its name
and the list, and its weights load strictly. The indices of a line are those of the network as the
lines before it have left it. A line is `kind module numbers`:

    out     backbone.stem.conv 0-7,9                  outputs (channels) that are kept
    in      backbone.stages_0.0.conv1_1x1.conv 0-7,9  inputs that are kept
    heads   backbone.stages_2.1.transformer.0.attn 0,2    attention heads that are kept
    drop    backbone.stages_2.1.transformer.0.mlp     a residual branch that is taken out
    rank    backbone.stages_2.1.transformer.0.mlp.fc1 48  a linear layer in two factors
    linear  backbone.stages_2.1.transformer.0.attn    attention of linear cost in its place
"""
from __future__ import annotations

from dataclasses import dataclass
import importlib
from typing import Dict, Iterable, List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from torch import nn

KINDS: Dict[str, str] = {
    'out': 'slices', 'in': 'slices', 'heads': 'heads', 'drop': 'branches', 'rank': 'low_rank',
    'linear': 'linear_attention',
}
"""Which module of this package makes a cut: its function cut(network, kind, at, numbers)."""


@dataclass(frozen=True)
class Cut:
    """One line of the list: what kind of cut, the module's dotted name, what is kept."""

    kind: str
    at: str
    numbers: Tuple[int, ...] = ()
    """Kept indices in rising order; of `rank` the rank; of `drop` and `linear` none."""

    def __str__(self) -> str:
        return ' '.join(part for part in (self.kind, self.at, _ranges(self.numbers)) if part)


def parse_cut(line: str) -> Cut:
    """Return the cut that a line says; ConfigError for one that says none."""
    words = line.split()
    try:
        kind, at = words[0], words[1]
        numbers = tuple(n for part in words[2].split(',') for n in _range(part)) \
            if len(words) == 3 else ()
    except (IndexError, ValueError) as error:
        raise ConfigError(f'model.cuts: expected `kind module numbers`, got {line!r}') from error
    if kind not in KINDS or len(words) > 3 or (not numbers) != (kind in ('drop', 'linear')):
        raise ConfigError(f'model.cuts: expected one of {", ".join(KINDS)} and what it takes, '
                          f'got {line!r}')
    if any(b <= a for a, b in zip(numbers, numbers[1:], strict=False)):
        raise ConfigError(f'model.cuts: expected rising numbers, got {line!r}')
    return Cut(kind, at, numbers)


def parse_cuts(lines: Iterable[str]) -> List[Cut]:
    """Return the cuts that the lines of a configuration say."""
    return [parse_cut(line) for line in lines]


def apply_cuts(network: nn.Module, cuts: Sequence[Cut]) -> None:
    """
    Make the cuts in order, in place; what is kept keeps its weights.

    ConfigError where the network has no such module or it cannot be cut so.
    """
    for cut in cuts:
        try:
            network.get_submodule(cut.at)
        except AttributeError as error:
            raise ConfigError(f'model.cuts: the network has no module {cut.at!r} ({cut})') \
                from error
        surgeon = importlib.import_module(f'offline_train.surgery.{KINDS[cut.kind]}')
        surgeon.cut(network, cut.kind, cut.at, cut.numbers)


def replace_module(network: nn.Module, at: str, module: nn.Module) -> None:
    """Put another module in the place of the one at a dotted name."""
    parent, _, name = at.rpartition('.')
    setattr(network.get_submodule(parent), name, module)


def _range(text: str) -> range:
    first, dash, last = text.partition('-')
    return range(int(first), int(last) + 1) if dash else range(int(first), int(first) + 1)


def _ranges(numbers: Sequence[int]) -> str:
    """Return 0,1,2,5 as 0-2,5."""
    runs: List[List[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ','.join('-'.join(map(str, run)) for run in runs)
