# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting channels of convolutions out of a network, whole groups of layers at a time."""
from __future__ import annotations

from typing import List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from offline_train.compression.channel_groups import find_groups, group_cuts, MULTIPLE
from offline_train.compression.importance import choose_units, group_scores
from offline_train.surgery.cuts import apply_cuts, Cut
from torch import nn, Tensor


def prune_filters(network: nn.Module, example_NCHW: Tensor, ratio: float, criterion: str,
                  batches: Sequence[Tuple[Tensor, Tensor]] = (), *,
                  norms: str = 'maps') -> List[Cut]:
    """
    Cut part `ratio` of the channels of every group, in place, and return the cuts.

    criterion: l1, l2 or taylor, the same ratio in each group; lamp, all groups ranked together.
    norms: which LayerNorms their channels may pass, see `find_groups`. ConfigError where nothing
    is left to cut.
    """
    if not 0 < ratio < 1:
        raise ConfigError(f'--filters: expected a part between 0 and 1, got {ratio!r}')
    groups = find_groups(network, example_NCHW, norms)
    scores = group_scores(network, groups, criterion, batches)
    cuts = group_cuts(network, list(zip(groups, choose_units(scores, ratio, criterion),
                                        strict=True)))
    if not cuts:
        raise ConfigError(
            f'--filters {ratio!r}: nothing to cut, the network has {len(groups)} groups of '
            f'channels with {[len(g) for g in groups]} channels, and {MULTIPLE} or a multiple '
            'stay; take a higher ratio, or --heads and --hidden for a transformer')
    apply_cuts(network, cuts)
    return cuts
