# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Changes of light, colour and quality of a crop, with torchvision.transforms.v2 where it is quick.

Parameters are drawn with numpy, so that a crop does not depend on torch's global generator.
"""
from __future__ import annotations

import importlib
from types import ModuleType

import cv2
from evit_seg.core.errors import ConfigError
import numpy as np
from offline_train.config import AugmentConfig
import torch
from torch import Tensor

BLUR_SIGMA = (0.3, 0.8)
"""Of a 3x3 Gaussian, pixels."""
NOISE = (0.005, 0.05)
"""Standard deviation of the noise, a part of the full range."""
JPEG_QUALITY = (40, 95)


def transforms() -> ModuleType:
    """
    Return torchvision.transforms.v2.functional; ConfigError where torchvision is missing.

    Only crops need it: a bundle is exported and scored without.
    """
    try:
        return importlib.import_module('torchvision.transforms.v2.functional')
    except ModuleNotFoundError as error:
        if str(error.name).split('.')[0] != 'torchvision':
            raise
        raise ConfigError('training needs the Python package torchvision for its augmentation, '
                          'it is not installed; pip install torchvision') from error


def change_tones(crop: np.ndarray, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """
    Return an RGB crop with changed tones and saturation, sometimes degraded.

    uint8 (h, w, 3) in, uint8 (3, h, w) out.
    """
    curves = _tone_curves(augment, rng)
    planes = [cv2.LUT(plane, curve) for plane, curve in zip(cv2.split(crop), curves, strict=True)]
    image_CHW = torch.from_numpy(np.stack(planes))
    saturation = 1 + rng.uniform(-augment.saturation, augment.saturation)
    if augment.saturation > 0:
        image_CHW = transforms().adjust_saturation(image_CHW, saturation)
    if rng.random() < augment.degrade:
        image_CHW = _blurred(image_CHW, rng.uniform(*BLUR_SIGMA))
    if rng.random() < augment.degrade:
        image_CHW = _add_noise(image_CHW, rng)
    if rng.random() < augment.degrade:
        image_CHW = _through_jpeg(image_CHW, int(rng.integers(*JPEG_QUALITY)))
    return image_CHW


def _tone_curves(augment: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """
    Return what becomes of each level in each channel, uint8 (3, 256).

    Gamma, contrast, gain and shift take a level to a level, whatever its neighbours: they are
    worked out on a ramp of all levels, in a tenth of the time that the pixels would take.
    """
    v2 = transforms()
    ramp = torch.arange(256, dtype=torch.float32)[None, None] / 255  # an image of one row
    ramp = v2.adjust_gamma(ramp, float(np.exp(rng.uniform(-augment.tone, augment.tone))))
    ramp = v2.adjust_contrast(ramp, 1 + rng.uniform(-augment.tone, augment.tone))
    gains = 1 + rng.uniform(-augment.tone / 3, augment.tone / 3, (3, 1))
    shift = rng.uniform(-augment.brightness, augment.brightness)
    curves = ramp[0].numpy() * 255 * gains + shift
    return np.clip(curves.round(), 0, 255).astype(np.uint8)


def _blurred(image_CHW: Tensor, sigma: float) -> Tensor:
    # OpenCV, because v2.gaussian_blur takes twenty times as long on a CPU.
    planes = [cv2.GaussianBlur(plane, (3, 3), sigma) for plane in image_CHW.numpy()]
    return torch.from_numpy(np.stack(planes))


def _add_noise(image_CHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the image with Gaussian noise; torch's generators are left as they were."""
    sigma, seed = rng.uniform(*NOISE), int(rng.integers(2 ** 62))
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would seed the GPUs as well, which are not forked.
        torch.default_generator.manual_seed(seed)
        noisy: Tensor = transforms().gaussian_noise(image_CHW, sigma=sigma)
    return noisy


def _through_jpeg(image_CHW: Tensor, quality: int) -> Tensor:
    # OpenCV, because v2.jpeg rests on torchvision.io, deprecated since 0.29, at half the speed.
    image_HWC = cv2.merge(list(image_CHW.numpy()[::-1]))  # BGR
    _, coded = cv2.imencode('.jpg', image_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return torch.from_numpy(np.stack(cv2.split(decoded)[::-1]))
