# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
How much each channel of a group matters, and which channels stay.

A channel's score is summed over all layers of its group, the filters that make it, its scale in
BatchNorm and the weights that listen to it, as Torch-Pruning sums a group (2301.12900, sec. 3.3),
and divided by the group's mean.
"""
from __future__ import annotations

from typing import Dict, List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import IGNORE_INDEX
from offline_train.compression.channel_groups import channels_of, Group, kept_count
import torch
from torch import nn, Tensor
import torch.nn.functional as functional

CRITERIA = ('l1', 'l2', 'taylor', 'lamp')
"""Sum of absolute weights; of squares; of |weight * gradient|; LAMP of the squares, global."""
Batch = Tuple[Tensor, Tensor]
"""Normalised image_NCHW, target_NHW uint8 with 255 ignored, of the image's size."""


def group_scores(network: nn.Module, groups: Sequence[Group], criterion: str,
                 batches: Sequence[Batch] = ()) -> List[Tensor]:
    """
    Return a score for each channel of each group, higher stays; batches are for taylor.

    l1, l2 and taylor have a mean of 1 in each group. lamp is a channel's l2 divided by the sum of
    those of its group that are not smaller (2010.07611, eq. 4, its weights taken to be whole
    channels): the best of a group has 1 whatever its scale, so that groups can be compared.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f'--criterion: expected one of {", ".join(CRITERIA)} to choose '
                          f'filters by, got {criterion!r}')
    weights = _saliency(network, batches) if criterion == 'taylor' else {
        name: p.detach().abs() if criterion == 'l1' else p.detach().square()
        for name, p in network.named_parameters()}
    scores = []
    for group in groups:
        total = torch.zeros(len(group), dtype=torch.float64)
        for kind, layer in group.layers:
            per_channel = weights[f'{layer}.weight'].double()
            if per_channel.ndim > 1:
                per_channel = per_channel.transpose(0, 0 if kind == 'out' else 1).flatten(1).sum(1)
            for channel, unit in channels_of(group, kind, layer).items():
                total[unit] += per_channel[channel]
        scores.append(_lamp(total) if criterion == 'lamp' else total / total.mean().clamp(1e-30))
    return scores


def choose_units(scores: Sequence[Tensor], ratio: float, criterion: str) -> List[List[int]]:
    """
    Return the rising indices that stay in each group.

    lamp: the best part 1 - `ratio` of all channels, each group's number then rounded to a
    multiple of 8; the others: the same part of each group.
    """
    counts = [kept_count(len(s), ratio) for s in scores]
    if criterion == 'lamp' and scores:
        everyone = torch.cat(list(scores)).sort().values
        bound = everyone[min(int(ratio * len(everyone)), len(everyone) - 1)]
        counts = [kept_count(len(s), 1 - float((s >= bound).double().mean())) for s in scores]
    return [best_units(s, count) for s, count in zip(scores, counts, strict=True)]


def best_units(scores: Tensor, count: int) -> List[int]:
    """Return the rising indices of the `count` highest scores; of equal ones the first."""
    kept: List[int] = scores.argsort(descending=True, stable=True)[:count].sort().values.tolist()
    return kept


def _lamp(squares: Tensor) -> Tensor:
    order = squares.argsort(descending=True, stable=True)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / squares[order].cumsum(0).clamp(1e-30)
    return scores


def _saliency(network: nn.Module, batches: Sequence[Batch]) -> Dict[str, Tensor]:
    """
    Return |weight * gradient of the cross entropy| of every weight, mean over the batches.

    First-order Taylor: what the loss would change by without it (1611.06440, eq. 7).
    """
    if not batches:
        raise ConfigError('--criterion taylor: expected labelled frames, got none; give --frames')
    network.eval()
    parameters = dict(network.named_parameters())
    saliency = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for image_NCHW, target_NHW in batches:
        logits = functional.interpolate(network(image_NCHW), size=target_NHW.shape[1:],
                                        mode='bilinear', align_corners=False)
        loss = functional.cross_entropy(logits, target_NHW.long(), ignore_index=IGNORE_INDEX,
                                        reduction='sum')
        labelled = (target_NHW != IGNORE_INDEX).sum().clamp(min=1)
        gradients = torch.autograd.grad(loss / labelled, list(parameters.values()),
                                        allow_unused=True)
        for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
            if gradient is not None:  # an auxiliary head has none
                saliency[name] += (p.detach() * gradient).abs() / len(batches)
    return saliency
