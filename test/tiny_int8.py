# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny bundle in int8."""
from __future__ import annotations

from dataclasses import replace

from evit_seg.core.bundle import open_bundle, write_bundle
import numpy as np
import onnx
from onnx import helper, numpy_helper
from tiny_bundle import tiny_onnx


def quantized_onnx(opset=13, ir_version=7):
    """Return the tiny network with its weights as int8 and its image as uint8 levels."""
    model = onnx.load_from_string(tiny_onnx())
    nodes, tensors = model.graph.node, {t.name: t for t in model.graph.initializer}
    weight = numpy_helper.to_array(tensors['weight'])
    scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    scale[scale == 0] = 1  # of black, whose weights are none
    levels = np.rint(weight / scale[:, None, None, None]).astype(np.int8)
    tensors['weight'].CopyFrom(numpy_helper.from_array(levels, 'weight'))
    constants = {'weight_scale': scale.astype(np.float32), 'weight_zero': np.zeros(14, np.int8),
                 'image_scale': np.array(1, np.float32), 'image_zero': np.array(0, np.uint8)}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    cast, transpose, convolution = nodes
    convolution.input[0], convolution.input[1] = 'pixels', 'weights'
    made = [cast, transpose, helper.make_node('QuantizeLinear', ['nchw', 'image_scale',
                                                                 'image_zero'], ['levels']),
            helper.make_node('DequantizeLinear', ['levels', 'image_scale', 'image_zero'],
                             ['pixels']),
            helper.make_node('DequantizeLinear', ['weight', 'weight_scale', 'weight_zero'],
                             ['weights'], axis=0), convolution]
    graph = helper.make_graph(made, 'tiny', model.graph.input, model.graph.output,
                              model.graph.initializer)
    quantized = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)])
    quantized.ir_version = ir_version
    return quantized.SerializeToString()


def write_int8(folder, source, content):
    """Write the tiny bundle with a file of its own as the int8 variant."""
    bundle = open_bundle(source)
    manifest = bundle.manifest
    golden = replace(manifest.golden, min_agreement={'int8': 0.75})
    variant = replace(manifest.variants[0], file='int8.onnx', precision='int8')
    files = {name: (source / name).read_bytes() for name in (golden.image, golden.mask)}
    write_bundle(folder, replace(manifest, variants=(variant,), golden=golden),
                 {**files, 'int8.onnx': content})
    return folder
