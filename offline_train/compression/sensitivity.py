# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Find the layers that 8 bits hurt, and leave the worst of them in float.

Each candidate is quantized alone, everything else in float, and the noise it brings to the logits
is measured. Then the noisiest stay in float, one more at a time, until the whole graph names the
classes of the float graph often enough: in the mean over classes, so that a class of a hundred
cells counts as much as the background.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

from evit_seg.core.errors import BundleError
import numpy as np
from offline_train.compression.int8 import candidates, quantize, run_all
from offline_train.compression.quantizers import sqnr_db
import onnx
from tqdm import tqdm


@dataclass(frozen=True)
class Effect:
    """What one node does to the logits when it alone is quantized."""

    node: str
    operator: str
    sqnr_db: float
    agreement: float
    """Mean over classes of the share of the float graph's cells that keep their class, 0 to 1."""


@dataclass(frozen=True)
class Mixed:
    """A quantized graph with some nodes in float."""

    content: bytes
    kept_float: Tuple[str, ...]
    agreement: float
    effects: Tuple[Effect, ...]
    """The scan, noisiest node first; empty where it was not needed."""


def class_agreement(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """
    Return the mean over classes of the share of `wanted`'s cells that keep their class in `got`.

    wanted, got: logits (1, classes, h, w) per frame. Classes without a cell are left out.
    """
    before = np.concatenate([logits.argmax(1).ravel() for logits in wanted])
    same = before == np.concatenate([logits.argmax(1).ravel() for logits in got])
    return float(np.mean([same[before == c].mean() for c in np.unique(before)]))


def scan(prepared: bytes, ranges: Any, inputs: Sequence[np.ndarray], *,
         keep_float: Sequence[str] = (), reduce_range: bool = False) -> List[Effect]:
    """Return the effect of each candidate that is not in float anyway, noisiest first."""
    wanted = [logits for logits, in run_all(prepared, inputs)]
    operators = {n.name: n.op_type for n in onnx.load_from_string(prepared).graph.node}
    effects = []
    names = [name for name in candidates(prepared) if name not in keep_float]
    for name in tqdm(names, desc='sensitivity', unit='node', disable=None, leave=False):
        content = quantize(prepared, ranges, only=[name], reduce_range=reduce_range)
        got = [logits for logits, in run_all(content, inputs)]
        effects.append(Effect(name, operators[name], sqnr_db(np.stack(wanted), np.stack(got)),
                              class_agreement(wanted, got)))
    return sorted(effects, key=lambda effect: effect.sqnr_db)


def quantize_mixed(prepared: bytes, ranges: Any, inputs: Sequence[np.ndarray], *,
                   min_agreement: float, max_float: int, keep_float: Sequence[str] = (),
                   reduce_range: bool = False) -> Mixed:
    """
    Quantize with as few nodes in float as `min_agreement` needs, at most `max_float` more.

    inputs: uint8 RGB (H, W, 3) frames to compare on. The scan runs only where all in 8 bits is
    not enough. BundleError says how near the best came.
    """
    wanted = [logits for logits, in run_all(prepared, inputs)]
    effects: Optional[List[Effect]] = None
    best = 0.0
    for count in range(max_float + 1):
        if count and effects is None:
            effects = scan(prepared, ranges, inputs, keep_float=keep_float,
                           reduce_range=reduce_range)
            print(format_effects(effects))
        worst = [effect.node for effect in effects or ()][:count]
        kept = (*keep_float, *worst)
        content = quantize(prepared, ranges, keep_float=kept, reduce_range=reduce_range)
        agreement = class_agreement(wanted, [got for got, in run_all(content, inputs)])
        print(f'{len(kept)} nodes in float: {agreement:.4f} of the cells of a class keep it '
              f'(mean over classes)')
        if agreement >= min_agreement:
            return Mixed(content, kept, agreement, tuple(effects or ()))
        best = max(best, agreement)
        if effects is not None and count >= len(effects):
            break
    raise BundleError(f'quantize: {best:.4f} of the cells of a class keep it with up to '
                      f'{max_float} nodes in float, at least {min_agreement} is asked for '
                      f'(--min-agreement), {min_agreement - best:.4f} more; allow more nodes in '
                      'float with --max-float, try another --calibration, or train with '
                      'quantization')


def format_effects(effects: Sequence[Effect]) -> str:
    """Return the scan as a table, noisiest node first."""
    lines = ['quantized alone: signal to noise at the logits, mean agreement over classes',
             *(f'{e.sqnr_db:7.1f} dB  {e.agreement:.4f}  {e.operator:<12} {e.node}'
               for e in effects)]
    return '\n'.join(lines)
