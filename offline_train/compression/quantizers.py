# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The affine quantizer of 8 bits, and the scale and zero point of every tensor of a quantized graph.

value = scale * (level - zero point). The zero point is a level, so that 0 is represented exactly,
which padding and ReLU need. "Energy-Efficient Transformer Compression for Real-Time Semantic
Segmentation on Resource-Constrained Edge Devices" calls this quantizer non-uniform and rounds
down; its levels are evenly spaced, and here values are rounded to the nearest level, ties to
even, as QuantizeLinear does: rounding down would shift every value by half a level on average.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from offline_train.compression.int8 import run_all
import onnx
from onnx import numpy_helper


@dataclass(frozen=True)
class Affine:
    """An evenly spaced quantizer: scale (one, or one per channel of `axis`) and zero point."""

    scale: np.ndarray
    zero_point: np.ndarray
    lowest: int = 0
    highest: int = 255
    axis: int = 0

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Return the levels of some values, int64, clipped to what there is."""
        scale, zero_point = (self._along(part, values.ndim) for part in
                             (self.scale, self.zero_point))
        levels = np.rint(np.asarray(values, np.float64) / scale) + zero_point
        return np.clip(levels, self.lowest, self.highest).astype(np.int64)

    def dequantize(self, levels: np.ndarray) -> np.ndarray:
        """Return the values that levels stand for, float32."""
        scale, zero_point = (self._along(part, levels.ndim) for part in
                             (self.scale, self.zero_point))
        return ((levels - zero_point) * scale).astype(np.float32)

    def range(self) -> Tuple[float, float]:  # noqa: A003
        """Return the smallest and the largest value there is a level for."""
        zero_point = self.zero_point.astype(np.int64)
        return (float(((self.lowest - zero_point) * self.scale).min()),
                float(((self.highest - zero_point) * self.scale).max()))

    def _along(self, part: np.ndarray, dimensions: int) -> np.ndarray:
        part = np.asarray(part, np.float64)
        if part.size == 1:
            return part.reshape(())
        shape = [1] * dimensions
        shape[self.axis] = part.size
        return part.reshape(shape)


def asymmetric(low: float, high: float, lowest: int = 0, highest: int = 255) -> Affine:
    """Return the quantizer of a range, widened to hold 0, onto the levels lowest to highest."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (highest - lowest) or 1.0
    zero_point = int(np.rint(lowest - low / scale))
    return Affine(np.array(scale), np.array(zero_point), lowest, highest)


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    """Return the ratio of signal to noise in decibels, infinite where both are equal."""
    signal = float(np.square(wanted, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(wanted, got, dtype=np.float64)).sum())
    if noise == 0:
        return float('inf')
    return float(10 * np.log10(max(signal, 1e-30) / noise))


@dataclass(frozen=True)
class TensorRow:
    """How one tensor is quantized; scale is the largest of `channels` scales."""

    tensor: str
    kind: str
    """activation, weight or bias."""
    dtype: str
    channels: int
    scale: float
    zero_point: int
    low: float
    high: float
    sqnr_db: Optional[float]
    """Of the tensor itself, the numbers before it exact; None for a tensor without noise."""


def tensor_rows(quantized: bytes, prepared: bytes, inputs: Sequence[np.ndarray]) \
        -> List[TensorRow]:
    """
    Return every quantized tensor of a graph, in its order.

    prepared: the float graph it was made from. inputs: frames to measure the noise on.
    """
    graph = onnx.load_from_string(quantized).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    before = {t.name: numpy_helper.to_array(t)
              for t in onnx.load_from_string(prepared).graph.initializer}
    quantizers: Dict[str, Affine] = {}
    for node in graph.node:
        if node.op_type == 'QuantizeLinear':
            # the quantizer renames what it puts between a node and an output of the graph
            name = node.input[0].removesuffix('_QuantizeLinear_Input')
            quantizers.setdefault(name, _affine(node, constants))
    values = run_all(prepared, inputs, tuple(quantizers)) if quantizers else []
    rows = [_row(name, 'activation', 'uint8', affine, np.concatenate([v[i] for v in values]))
            for i, (name, affine) in enumerate(quantizers.items())]
    for node in graph.node:
        if node.op_type == 'DequantizeLinear' and node.input[0] in constants:
            levels = constants[node.input[0]]
            name = node.input[0].removesuffix('_quantized')
            rows.append(_row(name, 'bias' if levels.dtype == np.int32 else 'weight',
                             str(levels.dtype), _affine(node, constants), before[name]))
    return rows


def write_report(rows: Sequence[TensorRow], path: Path) -> None:
    """Write the rows as path.json and as a table, path.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f'{path.name}.json').write_text(
        json.dumps([asdict(row) for row in rows], indent=2, allow_nan=False) + '\n',
        encoding='utf-8')
    lines = ['| tensor | kind | type | channels | scale | zero point | range | SQNR dB |',
             '|---|---|---|---|---|---|---|---|']
    for row in rows:
        noise = '-' if row.sqnr_db is None else f'{row.sqnr_db:.1f}'
        lines.append(f'| {row.tensor} | {row.kind} | {row.dtype} | {row.channels} | '
                     f'{row.scale:.4g} | {row.zero_point} | {row.low:.4g} to {row.high:.4g} | '
                     f'{noise} |')
    path.with_name(f'{path.name}.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _affine(node: Any, constants: Dict[str, np.ndarray]) -> Affine:
    zero_point = constants[node.input[2]]
    limits = np.iinfo(zero_point.dtype)
    axis = next((a.i for a in node.attribute if a.name == 'axis'), 1)
    return Affine(constants[node.input[1]], zero_point, int(limits.min), int(limits.max), axis)


def _row(name: str, kind: str, dtype: str, affine: Affine, values: np.ndarray) -> TensorRow:
    noise = sqnr_db(values, affine.dequantize(affine.quantize(values)))
    low, high = affine.range()
    return TensorRow(name, kind, dtype, affine.scale.size, float(affine.scale.max()),
                     int(affine.zero_point.flat[0]), low, high,
                     round(noise, 2) if np.isfinite(noise) else None)
