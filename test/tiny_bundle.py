# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A bundle of a few hundred bytes whose answer depends on the colour of the input.

The network averages each stride x stride block and answers with the class whose anchor colour is
nearest: logits_c = 2 a_c . x - a_c . a_c (the part of -(x - a_c)^2 that depends on c), scaled.
So a frame painted in the anchor colours has a mask that is known by hand.
"""
from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence, Tuple

from evit_seg.core.bundle import encode_golden, write_bundle
from evit_seg.core.labels import LabelClass, LabelMap, load_label_map
from evit_seg.core.manifest import InputSpec, Manifest, Variant
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto


def anchor_colours(num_classes: int = 14) -> np.ndarray:
    """Return (num_classes, 3) uint8 RGB colours at least 80 apart from one another."""
    levels = (0, 127, 255)
    grid = [(r, g, b) for r in levels for g in levels for b in levels]
    return np.array(grid[:num_classes], np.uint8)


def tiny_onnx(num_classes: int = 14, hw: Tuple[int, int] = (64, 64), stride: int = 8) -> bytes:
    """Return the ONNX model: uint8 (1, H, W, 3) RGB -> float32 (1, C, H/stride, W/stride)."""
    height, width = hw
    anchors = anchor_colours(num_classes).astype(np.float64) / 255
    weight = (20 * 2 * anchors / stride ** 2 / 255)[:, :, None, None]
    weight = np.broadcast_to(weight, (num_classes, 3, stride, stride)).astype(np.float32)
    bias = (-20 * (anchors ** 2).sum(1)).astype(np.float32)
    nodes = [
        helper.make_node('Cast', ['image'], ['float'], to=TensorProto.FLOAT),
        helper.make_node('Transpose', ['float'], ['nchw'], perm=[0, 3, 1, 2]),
        helper.make_node('Conv', ['nchw', 'weight', 'bias'], ['logits'],
                         kernel_shape=[stride, stride], strides=[stride, stride]),
    ]
    out_shape = [1, num_classes, height // stride, width // stride]
    graph = helper.make_graph(
        nodes, 'tiny',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(np.ascontiguousarray(weight), 'weight'),
         numpy_helper.from_array(bias, 'bias')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 7
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_label_map(num_classes: int = 14) -> LabelMap:
    """Return the first classes of LPCV 2023, or made-up ones beyond its 14."""
    if num_classes <= 14:
        return LabelMap(load_label_map().classes[:num_classes])
    return LabelMap(tuple(LabelClass(i, f'C{i}', f'c{i}', (i, i, i)) for i in range(num_classes)))


def painted_frame(blocks: int = 4, hw: Tuple[int, int] = (64, 64),
                  num_classes: int = 14) -> Tuple[np.ndarray, np.ndarray]:
    """Return an RGB frame of class-coloured blocks and the class id of each pixel."""
    rows, cols = np.indices(hw)
    ids = (rows * blocks // hw[0] * blocks + cols * blocks // hw[1]) % num_classes
    return anchor_colours(num_classes)[ids], ids.astype(np.uint8)


def write_tiny_bundle(folder: Path, *, num_classes: int = 14, hw: Tuple[int, int] = (64, 64),
                      stride: int = 8, resize: str = 'stretch', temperature: float = 1.0,
                      golden_mask: Optional[np.ndarray] = None,
                      network_classes: Optional[int] = None,
                      smaller: Sequence[Tuple[int, int]] = ()) -> Path:
    """
    Write the bundle and return its folder; `network_classes` makes one that does not fit.

    smaller: further input sizes of the same network, with the same number of cells.
    """
    image_HWC, ids_HW = painted_frame(hw=hw, num_classes=num_classes)
    mask_HW = ids_HW if golden_mask is None else golden_mask
    golden, files = encode_golden(image_HWC, mask_HW, {'fp32': 0.75})
    files['tiny.onnx'] = tiny_onnx(network_classes or num_classes, hw, stride)
    variant = Variant('tiny.onnx', '', 0, 'onnxruntime', 'fp32', hw[0], hw[1], stride,
                      'logits', 13, 7)
    variants = [variant]
    for height, width in smaller:
        cell_px = stride * height // hw[0]
        variants.append(Variant(f'tiny_{height}.onnx', '', 0, 'onnxruntime', 'fp32', height, width,
                                cell_px, 'logits', 13, 7))
        files[variants[-1].file] = tiny_onnx(num_classes, (height, width), cell_px)
    manifest = Manifest(name='tiny', label_map=tiny_label_map(num_classes),
                        variants=tuple(variants),
                        input=InputSpec(resize=resize), golden=golden, temperature=temperature,
                        normalise={'mean': [0, 0, 0], 'std': [1, 1, 1], 'where': 'graph'},
                        description='A colour classifier for tests.')
    write_bundle(folder, manifest, files)
    return Path(folder)
