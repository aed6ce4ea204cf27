# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentation networks by name."""
from __future__ import annotations

from evit_seg.core.errors import ConfigError
from offline_train.config import ModelConfig
from offline_train.models.bilateral import BilateralNet
from torch import nn


def stride_of(network: nn.Module) -> int:
    """Return how many input pixels a network's logits are apart."""
    return int(network.stride)  # type: ignore[arg-type]  # a plain attribute, not a Module


def build_model(config: ModelConfig, classes: int) -> nn.Module:
    """
    Return the network of that name with random weights.

    Every network takes normalised float (N, 3, H, W), has an attribute `stride`, and returns
    logits (N, classes, H / stride, W / stride); in training mode it may return a tuple, the main
    logits first, auxiliary ones after. ConfigError names the networks there are.
    """
    if config.name == 'bilateral':
        return BilateralNet(classes, config.widths)
    raise ConfigError(f"model.name: expected 'bilateral', got {config.name!r}")
