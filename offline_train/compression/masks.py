# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Zeros in place of cuts: the paper's way (2309.02617, fig. 3), for comparison.

Shapes stay and every product with a zero is still computed, so nothing is faster or smaller.
"""
from __future__ import annotations

from typing import List, Sequence

from evit_seg.core.errors import ConfigError
from offline_train.surgery.cuts import Cut
import torch
from torch import nn

KINDS = ('unstructured', 'filter', 'channel', 'linear')
"""Single weights, smallest of all layers; by layer, by L1: a convolution's outputs, its inputs,
a linear layer's outputs."""


def check_zeros(kind: str, sparsity: str | float) -> None:
    """Raise ConfigError unless `sparsity` is a part from 0 to below 1 of one of KINDS."""
    if kind not in KINDS:
        raise ConfigError(f'zeros: expected one of {", ".join(KINDS)}, got {kind!r}')
    try:
        right = 0 <= float(sparsity) < 1
    except ValueError:
        right = False
    if not right:
        raise ConfigError(f'zeros: expected a part from 0 up to, not including, 1, got '
                          f'{sparsity!r}')


@torch.no_grad()
def zero_weights(network: nn.Module, kind: str, sparsity: float, classes: int) -> float:
    """
    Zero part `sparsity` of what `kind` says, in place; return which part of the weights it is.

    All weights of convolutions and linear layers count. Left alone are the inputs of the layer
    that sees the image, and the outputs of layers that answer with `classes` channels.
    """
    check_zeros(kind, sparsity)
    layers: List[nn.Conv2d | nn.Linear] = [
        m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    total = sum(m.weight.numel() for m in layers)
    before = sum(int((m.weight == 0).sum()) for m in layers)
    if kind == 'unstructured':
        _zero_smallest(layers, sparsity, total)
    else:
        for layer in layers:
            _zero_slices(layer, kind, sparsity, classes)
    return (sum(int((m.weight == 0).sum()) for m in layers) - before) / total


@torch.no_grad()
def zero_instead(network: nn.Module, cuts: Sequence[Cut]) -> None:
    """
    Zero in place what `out` and `in` cuts would take out, biases and BatchNorm's too.

    The outputs are then those of the cut network: the proof that a cut is what it says.
    """
    for cut in cuts:
        if cut.kind not in ('out', 'in'):
            raise ConfigError(f'zeros: expected out and in cuts, got {str(cut)!r}')
        layer = network.get_submodule(cut.at)
        dimension = 0 if cut.kind == 'out' else 1
        for name, parameter in layer.named_parameters(recurse=False):
            if dimension and name == 'bias':
                continue
            kept = torch.zeros(parameter.shape[dimension], dtype=torch.bool)
            kept[list(cut.numbers)] = True
            parameter.transpose(0, dimension)[~kept] = 0


def _zero_smallest(layers: Sequence[nn.Module], sparsity: float, total: int) -> None:
    weights = [layer.get_parameter('weight') for layer in layers]
    order = torch.cat([w.abs().flatten() for w in weights]).argsort(stable=True)
    gone = torch.zeros(total, dtype=torch.bool, device=order.device)
    gone[order[:round(sparsity * total)]] = True
    for weight, mask in zip(weights, gone.split([w.numel() for w in weights]), strict=True):
        weight[mask.view_as(weight)] = 0


def _zero_slices(layer: nn.Module, kind: str, sparsity: float, classes: int) -> None:
    if isinstance(layer, nn.Linear) != (kind == 'linear'):
        return
    weight = layer.get_parameter('weight')
    dimension = 1 if kind == 'channel' else 0
    sees_image = dimension == 1 and weight.shape[1] == 3
    depthwise = dimension == 1 and weight.shape[1] == 1  # its one input is its own channel
    if sees_image or depthwise or (dimension == 0 and weight.shape[0] == classes):
        return
    slices = weight.transpose(0, dimension)
    order = slices.flatten(1).abs().sum(1).argsort(stable=True)
    gone = order[:round(sparsity * len(order))]
    slices[gone] = 0
    bias = getattr(layer, 'bias', None)
    if dimension == 0 and bias is not None:
        bias[gone] = 0
