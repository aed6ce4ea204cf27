# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Quantize an exported graph to 8 bits after training, with ONNX Runtime's static quantizer.

Weights are symmetric int8 with a scale per output channel, activations asymmetric uint8 with one
scale per tensor, the graph is in QDQ form: plain nodes between QuantizeLinear and
DequantizeLinear, which ONNX Runtime fuses into integer kernels when it loads them. On x86 int8
activations are no faster than floats (bilateral network at 384x640, one thread of a Zen 4:
97 ms, float 96 ms, uint8 46 ms in one run), so there is no choice of them.

The normalisation in front stays in float: the camera's 256 levels are quantized once, after it.
"""
from __future__ import annotations

from contextlib import contextmanager, redirect_stdout
import io
import logging
from pathlib import Path
import tempfile
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

from evit_seg.core.errors import ConfigError
import numpy as np
from offline_train.deployed import ir_version
import onnx
from onnx import helper, numpy_helper
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, quant_pre_process, QuantType
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

COMPUTING = ('Conv', 'ConvTranspose', 'MatMul', 'Gemm', 'Add', 'Mul', 'Sigmoid', 'Concat',
             'AveragePool', 'GlobalAveragePool')
"""Operators with an integer kernel that change values: each of them may be left in float."""
FOLLOWING = ('Relu', 'Clip', 'MaxPool', 'Resize', 'Transpose', 'Reshape', 'Flatten', 'Squeeze',
             'Unsqueeze', 'Split', 'Slice')
"""Operators that keep the scale of what they are fed with: in integers where that is."""
CALIBRATIONS = ('percentile', 'entropy', 'minmax')
ENTROPY_BINS = 1024
"""
Of a histogram from -max to max.

ONNX Runtime's default, 128, is the number of levels that entropy is computed with: one candidate
would be left to choose from.
"""
NORMALISATION = ('Reshape', 'Cast', 'Sub', 'Mul', 'Transpose')


def prepare(content: bytes) -> bytes:
    """
    Return an exported fp32 graph as the quantizer likes it; it computes the same.

    Constants are folded, shapes known, and a BatchNorm that follows no convolution is a depthwise
    one of 1x1, which has an integer kernel.
    """
    opset = next(o.version for o in onnx.load_from_string(content).opset_import if not o.domain)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        source, target = Path(scratch) / 'exported.onnx', Path(scratch) / 'prepared.onnx'
        source.write_bytes(content)
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        model = onnx.load(str(target))
    _batch_norms_as_convolutions(model.graph)
    model = onnx.shape_inference.infer_shapes(model)
    return _finish(model, opset)


def candidates(prepared: bytes) -> List[str]:
    """Return the names of the nodes that can be left in float, in the order of the graph."""
    graph = onnx.load_from_string(prepared).graph
    front = _front(graph)
    return [node.name for node in graph.node
            if node.op_type in COMPUTING and node.name not in front]


def calibrate(prepared: bytes, inputs: Sequence[np.ndarray], method: str = 'percentile',
              percentile: float = 99.99) -> Any:
    """
    Return the range of each tensor over some frames, as the quantizer takes it.

    inputs: uint8 RGB (H, W, 3) at the network's size. method: minmax takes all that was seen,
    percentile cuts (100 - percentile) / 2 per cent at each end, entropy takes the threshold whose
    128 levels lose least (Kullback-Leibler; Migacz, "8-bit inference with TensorRT", GTC 2017).
    """
    if method not in CALIBRATIONS:
        raise ConfigError(f'--calibration: expected {", ".join(CALIBRATIONS)}, got {method!r}')
    if not 50 < percentile <= 100:
        raise ConfigError(f'--percentile: expected above 50 up to 100, got {percentile!r}')
    kind, options = {
        'minmax': (CalibrationMethod.MinMax, {}),
        'percentile': (CalibrationMethod.Percentile,
                       {'percentile': percentile, 'symmetric': False, 'num_bins': 2048}),
        'entropy': (CalibrationMethod.Entropy, {'num_bins': ENTROPY_BINS}),
    }[method]
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / 'prepared.onnx'
        path.write_bytes(prepared)
        calibrator = create_calibrator(path, None, str(Path(scratch) / 'watched.onnx'), kind,
                                       extra_options=options)
        for image in inputs:  # one by one: it keeps every activation of what it is given
            calibrator.collect_data(_Reader(image))
        return calibrator.compute_data()


def quantize(prepared: bytes, ranges: Any, *, keep_float: Collection[str] = (),
             only: Optional[Collection[str]] = None, reduce_range: bool = False) -> bytes:
    """
    Return the quantized graph: uint8 (1, H, W, 3) in, float logits out, as before.

    keep_float: candidates that stay as they are. only: the candidates to quantize, all when None.
    reduce_range: weights of 7 bits, for x86 without VNNI, whose kernels saturate at 16 bits in
    between (ONNX Runtime's documentation of quantize_static).
    """
    model = onnx.load_from_string(prepared)
    opset = next(o.version for o in model.opset_import if not o.domain)
    names = [node.name for node in model.graph.node]
    for name in (*keep_float, *(only or ())):
        if name not in names:
            raise ConfigError(f'--keep-float: expected the name of a node, got {name!r}; '
                              f'there are {", ".join(candidates(prepared))}')
    followers = [n.name for n in model.graph.node if n.op_type in FOLLOWING]
    chosen = [*only, *followers] if only is not None else []
    with _quiet():
        quantizer = QDQQuantizer(
            model, True, reduce_range, QuantType.QInt8, QuantType.QUInt8, ranges, chosen,
            [*_front(model.graph), *keep_float], [*COMPUTING, *FOLLOWING], {})
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    return _finish(quantizer.model.model, opset)


class _Reader:
    """One frame, as ONNX Runtime's calibrators ask for it."""

    def __init__(self, image_HWC: np.ndarray) -> None:
        self._images: Iterator[np.ndarray] = iter([image_HWC])

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        """Return the next input of the graph, None after the last."""
        image_HWC = next(self._images, None)
        return None if image_HWC is None else {'image': image_HWC[None]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's tools from printing what only their developers can use."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(3)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        onnxruntime.set_default_logger_severity(2)


def _finish(model: Any, opset: int) -> bytes:
    """Return the bytes of a model in the IR of its opset, without imports that it does not use."""
    used = {node.domain for node in model.graph.node}
    imports = [helper.make_opsetid(o.domain, o.version) for o in model.opset_import
               if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.ir_version = ir_version(opset)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(content)
    return content


def _front(graph: Any) -> Dict[str, str]:
    """Return the nodes that normalise the camera's bytes, with the operator of each."""
    constant = {tensor.name for tensor in graph.initializer}
    raw = {graph.input[0].name}
    front = {}
    for node in graph.node:
        if {name for name in node.input if name not in constant} <= raw \
                and node.op_type in NORMALISATION:
            raw.update(node.output)
            front[node.name] = node.op_type
    return front


def _batch_norms_as_convolutions(graph: Any) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != 'BatchNormalization':
            continue
        scale, shift, mean, variance = (numpy_helper.to_array(constants[name]).astype(np.float64)
                                        for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == 'epsilon'), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight, bias = f'{node.name}_factor', f'{node.name}_shift'
        graph.initializer.extend([
            numpy_helper.from_array(factor.reshape(-1, 1, 1, 1).astype(np.float32), weight),
            numpy_helper.from_array((shift - mean * factor).astype(np.float32), bias)])
        node.CopyFrom(helper.make_node(
            'Conv', [node.input[0], weight, bias], list(node.output), name=node.name,
            group=len(factor), kernel_shape=[1, 1]))


def run_all(content: bytes, inputs: Sequence[np.ndarray],
            names: Tuple[str, ...] = ('logits',)) -> List[List[np.ndarray]]:
    """
    Return what a graph computes for some frames: a list per frame, an array per name.

    Names that are no outputs of the graph are added to them.
    """
    model = onnx.load_from_string(content)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names
                              if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=['CPUExecutionProvider'])
    return [session.run(list(names), {'image': image[None]}) for image in inputs]
