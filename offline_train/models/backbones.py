# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Backbones of timm and segmentation_models.pytorch, and where their weights come from.

Weights are random, downloaded only when asked for, or read from a local safetensors file.
"""
from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Tuple

from evit_seg.core.errors import ConfigError, InputError
from torch import nn, Tensor


def timm_features(name: str, levels: Tuple[int, ...], pretrained: bool, **options: Any
                  ) -> Tuple[nn.Module, List[int]]:
    """
    Return timm's backbone of that name and the channels of its maps.

    A call of the backbone gives the list of maps at `levels`. `options` go to timm
    (output_stride, img_size). InputError when pretrained weights cannot be had, ConfigError when
    timm is missing.
    """
    timm = require('timm')
    try:
        backbone = timm.create_model(name, pretrained=pretrained, features_only=True,
                                     out_indices=levels, **options)
    except OSError as error:  # what the hub raises without a network
        raise _no_download(name, error) from error
    return backbone, list(backbone.feature_info.channels())


def mix_transformer(name: str, pretrained: bool) -> Tuple[nn.Module, List[int]]:
    """
    Return SegFormer's encoder mit_b0 to mit_b5 and the channels of its maps.

    A call gives the image, an empty map and the maps at strides 4, 8, 16 and 32. Source: Xie et
    al. 2021, arXiv 2105.15203.
    """
    try:
        encoder = smp_module('encoders').get_encoder(
            name, weights='imagenet' if pretrained else None)
    except OSError as error:
        raise _no_download(name, error) from error
    return encoder, list(encoder.out_channels)


def smp_module(path: str) -> ModuleType:
    """Import a module of segmentation_models.pytorch."""
    require('segmentation_models_pytorch')
    return importlib.import_module(f'segmentation_models_pytorch.{path}')


def require(package: str) -> ModuleType:
    """Import a package that only some networks need; ConfigError says how to get it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigError(f'model: this network needs {package}, which is not installed; '
                          f'pip install {package.replace("_", "-")}') from error


def load_weights(network: nn.Module, backbone: str, path: Path) -> None:
    """
    Load a safetensors file into a whole network or, if it is one of those, its backbone.

    A file that has the names of the whole network is loaded as such. Any other must be what timm
    publishes for `backbone` (its classifier is left out). Both are strict: InputError names the
    tensors that are missing, unknown or of another shape.
    """
    state = _read(path)
    if not backbone or set(state) == set(network.state_dict()):
        _load_strict(network, state, f'{path}: expected the weights of this network')
        return
    expected = (f'{path}: expected the weights of this network or of its ImageNet backbone '
                f'{backbone!r}')
    target = network.get_submodule('backbone')
    if backbone.startswith('mit_b'):
        state = {key: value for key, value in state.items() if not key.startswith('head.')}
        _load_strict(target, state, expected)
        return
    try:  # a whole classifier, so that timm translates old names and misses nothing
        classifier = require('timm').create_model(backbone, pretrained=True,
                                                  pretrained_cfg_overlay={'file': str(path)})
    except RuntimeError as error:
        raise _misfit(expected, error) from error
    # A backbone that answers with maps calls stages_0 what is stages.0 in the classifier.
    flat = {key.replace('.', '_'): value for key, value in classifier.state_dict().items()}
    _load_strict(target, {key: flat[key.replace('.', '_')] for key in target.state_dict()},
                 expected)


def _read(path: Path) -> Dict[str, Tensor]:
    safetensors = importlib.import_module('safetensors.torch')
    format_error = importlib.import_module('safetensors').SafetensorError
    try:
        return safetensors.load_file(path)
    except (OSError, format_error) as error:
        raise InputError(f'{path}: expected a safetensors file of weights: {error}') from error


def _load_strict(module: nn.Module, state: Dict[str, Tensor], expected: str) -> None:
    try:
        nn.Module.load_state_dict(module, state, strict=True)
    except RuntimeError as error:
        raise _misfit(expected, error) from error


def _misfit(expected: str, error: RuntimeError) -> InputError:
    reasons = [line.strip() for line in str(error).splitlines()[1:4]]
    shown = ' '.join(f'{line[:200]}...' if len(line) > 200 else line for line in reasons)
    return InputError(f'{expected}, got other tensors. {shown}')


def _no_download(name: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f'pretrained weights of {name!r} could not be downloaded ({reason}); give a local file '
        f"instead: weights = '/path/of/{name}.safetensors', as published on huggingface.co, "
        'with pretrained = false')
