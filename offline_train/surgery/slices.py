# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Keep some outputs or some inputs of one layer; who feeds it and who listens is cut apart."""
from __future__ import annotations

from typing import Sequence

from evit_seg.core.errors import ConfigError
import torch
from torch import nn, Tensor


def cut(network: nn.Module, kind: str, at: str, numbers: Sequence[int]) -> None:
    """Keep the outputs (`out`) or inputs (`in`) with these indices; ConfigError if it cannot."""
    layer = network.get_submodule(at)
    width = _width(layer, kind, at)
    if numbers[-1] >= width:
        raise ConfigError(f'model.cuts: {kind} {at} has {width} of them, got index {numbers[-1]}')
    if kind == 'in' and not isinstance(layer, (nn.Conv2d, nn.Linear)):
        raise ConfigError(f'model.cuts: expected a convolution or a linear layer, {at} is a '
                          f'{type(layer).__name__}')
    kept = torch.tensor(numbers)
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        _cut_weights(layer, kind, at, kept)
    else:
        _cut_norm(layer, kept)


def _width(layer: nn.Module, kind: str, at: str) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels if kind == 'out' else layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features if kind == 'out' else layer.in_features
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return layer.num_features
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return layer.normalized_shape[0]
    raise ConfigError(f'model.cuts: {at} is a {type(layer).__name__}, which cannot be cut')


def _cut_weights(layer: nn.Conv2d | nn.Linear, kind: str, at: str, kept: Tensor) -> None:
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        if layer.groups != layer.in_channels or layer.groups != layer.out_channels or kind == 'in':
            raise ConfigError(f'model.cuts: {at} has {layer.groups} groups; only depthwise '
                              'convolutions are cut, and by their outputs')
        layer.groups = layer.in_channels = layer.out_channels = len(kept)
    elif isinstance(layer, nn.Conv2d):
        setattr(layer, 'out_channels' if kind == 'out' else 'in_channels', len(kept))
    else:
        setattr(layer, 'out_features' if kind == 'out' else 'in_features', len(kept))
    layer.weight = _kept(layer.weight, 0 if kind == 'out' else 1, kept)
    if kind == 'out' and layer.bias is not None:
        layer.bias = _kept(layer.bias, 0, kept)


def _cut_norm(layer: nn.Module, kept: Tensor) -> None:
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, _kept(parameter, 0, kept))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        if buffer.ndim == 1:  # not the number of batches
            setattr(layer, name, buffer[kept.to(buffer.device)].clone())
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (len(kept),)
    else:
        layer.num_features = len(kept)  # type: ignore[assignment]


def _kept(parameter: Tensor, dimension: int, kept: Tensor) -> nn.Parameter:
    chosen = parameter.detach().index_select(dimension, kept.to(parameter.device))
    return nn.Parameter(chosen.contiguous(), requires_grad=parameter.requires_grad)
