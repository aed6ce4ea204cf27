# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The picture for people: the mask's colours over the image, a labelled box per alert region."""
from __future__ import annotations

from typing import Optional, Sequence, Tuple

import cv2
from evit_seg.core.alerts import Alert
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelMap
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_CALM_SLUG = 'background'  # left as it is: a tint over everything hides more than it shows


def draw_overlay(image_HWC: np.ndarray, colour: str, mask_HW: np.ndarray, label_map: LabelMap,
                 alerts: Sequence[Alert], width: Optional[int] = None,
                 alpha: float = 0.45) -> np.ndarray:
    """
    Return a new image, uint8 (h, w, 3) BGR, with mask and alerts drawn over a frame.

    `image_HWC` is uint8 (H, W, 3) in `colour` order ('bgr' or 'rgb'); `mask_HW` holds class ids
    at any size and covers the whole frame. The alerts' boxes are in pixels of the frame. `width`
    caps the result's width in pixels, never enlarging. `alpha` is the weight of the mask's
    colours, 0 to 1; the background and ids without a class keep the image as it is.
    """
    if colour not in ('bgr', 'rgb'):
        raise ConfigError(f"colour: expected 'bgr' or 'rgb', got {colour!r}")
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f'alpha: expected 0 to 1, got {alpha!r}')
    if width is not None and width < 1:
        raise ConfigError(f'width: expected at least 1 pixel, got {width!r}')
    source_h, source_w = image_HWC.shape[:2]
    out_w = source_w if width is None else min(width, source_w)
    out_h = max(1, round(source_h * out_w / source_w))
    picture = image_HWC
    if (out_h, out_w) != (source_h, source_w):
        picture = cv2.resize(picture, (out_w, out_h), interpolation=cv2.INTER_AREA)
    picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if colour == 'rgb' else picture.copy()
    _blend(picture, mask_HW, label_map, alpha)
    scale_xy = (out_w / source_w, out_h / source_h)
    for alert in alerts:
        tint = _colour_bgr(label_map, alert.class_id)
        for region in alert.regions:
            left, top = int(region.x * scale_xy[0]), int(region.y * scale_xy[1])
            right = max(left + 2, round((region.x + region.w) * scale_xy[0]))
            bottom = max(top + 2, round((region.y + region.h) * scale_xy[1]))
            _draw_box(picture, (left, top), (right, bottom), tint,
                      f'{alert.slug} {region.confidence:.0%}')
    return picture


def _blend(picture_HWC: np.ndarray, mask_HW: np.ndarray, label_map: LabelMap,
           alpha: float) -> None:
    """Mix the palette into the picture, in place, where the mask names a class to show."""
    size_hw = picture_HWC.shape[:2]
    if mask_HW.shape != size_hw:
        mask_HW = cv2.resize(mask_HW, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST)
    shown = np.zeros(256, np.uint8)
    for entry in label_map:
        shown[entry.id] = entry.slug != _CALM_SLUG
    palette_bgr = np.ascontiguousarray(label_map.palette_rgb()[:, None, ::-1])
    colours_HWC = cv2.applyColorMap(mask_HW, palette_bgr)  # as palette[mask], ten times as fast
    mixed = cv2.addWeighted(picture_HWC, 1.0 - alpha, colours_HWC, alpha, 0.0)
    cv2.copyTo(mixed, cv2.LUT(mask_HW, shown), picture_HWC)


def _colour_bgr(label_map: LabelMap, class_id: int) -> Tuple[int, int, int]:
    red, green, blue = (int(v) for v in label_map.palette_rgb()[class_id])
    return blue, green, red


def _draw_box(picture_HWC: np.ndarray, top_left: Tuple[int, int], bottom_right: Tuple[int, int],
              tint: Tuple[int, int, int], text: str) -> None:
    """Draw a box and its label, kept inside the picture; a dark rim shows it on any ground."""
    height, width = picture_HWC.shape[:2]
    cv2.rectangle(picture_HWC, top_left, bottom_right, _BLACK, 3)
    cv2.rectangle(picture_HWC, top_left, bottom_right, tint, 1)
    size = 0.4 if width < 1000 else 0.6
    (text_w, text_h), below = cv2.getTextSize(text, _FONT, size, 1)
    x = max(0, min(top_left[0], width - text_w - 4))
    y = top_left[1] - below - 2
    if y < text_h + 2:  # no room above: write below the box
        y = min(bottom_right[1] + text_h + 4, height - below)
    cv2.rectangle(picture_HWC, (x, y - text_h - 2), (x + text_w + 4, y + below), tint, cv2.FILLED)
    bright = tint[0] * 0.114 + tint[1] * 0.587 + tint[2] * 0.299 > 128  # ITU-R BT.601
    cv2.putText(picture_HWC, text, (x + 2, y), _FONT, size, _BLACK if bright else _WHITE, 1,
                cv2.LINE_AA)
