# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The network as it flies, normalisation included, as ONNX, and how near that is to torch."""
from __future__ import annotations

from contextlib import contextmanager
import importlib.util
import io
from typing import Callable, Dict, Iterator, Sequence
import warnings

from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.onnx_fold import fold_constants
import numpy as np
from offline_train.config import InputConfig
import onnx
import onnxruntime
import torch
from torch import nn, Tensor

MIN_AGREEMENT = {'fp32': 0.999, 'fp16': 0.995, 'int8': 0.98}
"""
Smallest share of cells where a variant and torch must name the same class, by precision.

Half precision keeps 11 bits: a logit near 10 moves by up to 0.005, so that only cells whose two
best classes are that near to each other may change.
"""
OPSETS = range(13, 19)
"""13 is what TensorRT 8.2 (JetPack 4.6) reads; ONNX Runtime 1.11, the last there, reads 16."""


class Deployed(nn.Module):
    """
    A network with its normalisation in front: uint8 (1, H, W, 3) in, float logits out.

    Cast, subtract, multiply: folding the mean into a zero-padded convolution would be wrong at
    the borders. Whole rows of the image at once, (1, H, W * 3): ONNX Runtime handles three
    channels that lie innermost almost one by one, 6.6 of 20.7 ms of an int8 `bilateral` at
    384x640; after the transposition it would move it back behind.
    """

    def __init__(self, network: nn.Module, config: InputConfig) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.network = network
        self._size = config.height, config.width
        self.register_buffer('mean', torch.tensor(config.mean).repeat(config.width))
        self.register_buffer('scale', (1.0 / torch.tensor(config.std)).repeat(config.width))

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """Return logits (1, classes, H / stride, W / stride)."""
        height, width = self._size
        rows = (image_NHWC.float().reshape(-1, height, width * 3) - self.mean) * self.scale
        image_NCHW = rows.reshape(-1, height, width, 3).permute(0, 3, 1, 2)
        logits: Tensor = self.network(image_NCHW)
        return logits


@contextmanager
def plain_attention() -> Iterator[None]:
    """
    Let timm build its attention from plain products inside the `with`.

    The fused operator it uses otherwise has no ONNX form below opset 14. It is chosen when a
    network is built, so this goes around building, not around exporting.
    """
    if importlib.util.find_spec('timm') is None:
        yield
        return
    from timm.layers import set_fused_attn, use_fused_attn
    before = use_fused_attn(), use_fused_attn(experimental=True)
    set_fused_attn(False)
    try:
        yield
    finally:
        set_fused_attn(*before)


def ir_version(opset: int) -> int:
    """Return the newest IR that every ONNX Runtime with this opset reads: 1.11 takes 7 or 8."""
    return 7 if opset <= 13 else 8


def export_onnx(deployed: Deployed, config: InputConfig, opset: int) -> bytes:
    """
    Return the ONNX of a deployed network: static shapes, input `image`, output `logits`.

    The exporter folds BatchNorm into the convolutions before it, so re-parameterising a network
    first wins nothing. Of PIDNet-S's 77 layers 9 remain that follow no convolution; the graph is
    no faster without them (114 ms with and without, ONNX Runtime, 512x512, one thread).
    """
    if opset not in OPSETS:
        raise ConfigError(f'--opset: expected {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}')
    example = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # shapes read while tracing are constants on purpose
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(deployed, (example,), buffer,  # type: ignore[arg-type]
                          input_names=['image'], output_names=['logits'], opset_version=opset,
                          dynamo=False)
    model = onnx.load_from_string(buffer.getvalue())
    fold_constants(model)
    model.ir_version = ir_version(opset)
    content: bytes = model.SerializeToString()
    onnx.checker.check_model(content)
    return content


def check_parity(what: str, run: Callable[[np.ndarray], np.ndarray], deployed: Deployed,
                 inputs: Sequence[np.ndarray], precision: str = 'fp32') -> Dict[str, float]:
    """
    Compare a variant with torch; BundleError below MIN_AGREEMENT of equal classes.

    run: uint8 (1, H, W, 3) -> logits. inputs: uint8 RGB (H, W, 3) at the network's size.
    """
    equal, cells, largest = 0, 0, 0.0
    for image in inputs:
        with torch.no_grad():
            wanted = deployed(torch.from_numpy(image)[None]).numpy()
        got = run(image[None])
        if not np.isfinite(got).all():
            raise BundleError(f'export: {what} gives numbers that are not finite; a value left '
                              f'the range of {precision}')
        largest = max(largest, float(np.abs(got - wanted).max()))
        same = got.argmax(1) == wanted.argmax(1)
        equal, cells = equal + int(same.sum()), cells + same.size
    agreement = equal / cells
    print(f'parity of {what} ({precision}) with torch: largest difference {largest:.2e}, '
          f'{agreement:.4%} of the cells agree')
    if agreement < MIN_AGREEMENT[precision]:
        raise BundleError(f'export: {what} and torch agree on {agreement:.4f} of the cells, '
                          f'at least {MIN_AGREEMENT[precision]} is needed (largest difference of '
                          f'the logits {largest:.3g}); '
                          + ('leave more layers in float (--min-agreement, --max-float)'
                             if precision == 'int8' else 'try another --opset'))
    return {'agreement': round(agreement, 6), 'max_difference': float(f'{largest:.3g}'),
            'frames': len(inputs)}


def onnx_runner(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs an ONNX model on the CPU: image in, logits out."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])

    def run(image_NHWC: np.ndarray) -> np.ndarray:
        logits_NCHW: np.ndarray = session.run(None, {'image': image_NHWC})[0]
        return logits_NCHW

    return run
