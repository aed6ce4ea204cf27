# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentation networks by name, as a run's configuration asks for them."""
from __future__ import annotations

from pathlib import Path

from offline_train.config import InputConfig, ModelConfig
from offline_train.models import zoo
from offline_train.models.backbones import load_weights
from offline_train.models.bilateral import BilateralNet
from offline_train.surgery.cuts import apply_cuts, parse_cuts
from torch import nn


def stride_of(network: nn.Module) -> int:
    """Return how many input pixels a network's logits are apart."""
    return int(network.stride)  # type: ignore[arg-type]  # a plain attribute, not a Module


def build_model(config: ModelConfig, classes: int, size: InputConfig | None = None, *,
                fresh: bool = False) -> nn.Module:
    """
    Return the network of that name, laid out for the deployed input size, its cuts made.

    Every network takes normalised float (N, 3, H, W), has an attribute `stride`, and returns
    logits (N, classes, H / stride, W / stride); in training mode it may return a tuple, the main
    logits first, auxiliary ones after. `fresh`: start from the pretrained or local weights the
    configuration names; without it the weights are random, to be loaded from a checkpoint.
    Such weights are the uncut network's. ConfigError names the networks there are; InputError
    for weights that cannot be had.
    """
    network = _build_whole(config, classes, size or InputConfig(), fresh)
    apply_cuts(network, parse_cuts(config.cuts))
    return network


def _build_whole(config: ModelConfig, classes: int, size: InputConfig, fresh: bool) -> nn.Module:
    if config.name == 'bilateral' and not (config.pretrained or config.decoder_width):
        network = BilateralNet(classes, config.widths)  # the one whose widths are the run's
        if fresh and config.weights:
            load_weights(network, '', Path(config.weights))
        return network
    return zoo.build_model(config.name, classes, pretrained=fresh and config.pretrained,
                           weights=(config.weights or None) if fresh else None,
                           image_size=(size.height, size.width),
                           width=config.decoder_width)
