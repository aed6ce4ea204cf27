# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Ratios by measured latency: cut first where a channel costs much time and matters little.

Each convolution and linear layer is timed alone in ONNX Runtime, on one thread, at the size it
has in the deployed network: whole, and with three quarters, a half and a quarter of the channels
of each group it belongs to. A layer between two groups is taken to shrink by the product of both
ratios; what no such layer takes (the whole network's time less theirs) stays. At the end the
whole and the cut network are timed against each other: that is the number to believe.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass
import time
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from evit_seg.core.errors import ConfigError
import numpy as np
from offline_train.compression.channel_groups import find_groups, Group, group_cuts, kept_count
from offline_train.compression.importance import best_units, group_scores
from offline_train.config import InputConfig
from offline_train.deployed import Deployed, export_onnx
from offline_train.surgery.cuts import apply_cuts, Cut
import onnx
import onnxruntime
import torch
from torch import nn, Tensor

STEPS = (0.25, 0.5, 0.75)
"""Parts of a group that are tried, each rounded to a multiple of 8 kept channels."""
REPEATS = 11
"""Runs of each graph, in turns; the median counts."""


@dataclass(frozen=True)
class Layer:
    """What one layer's time depends on."""

    outputs: int
    inputs: int
    shape: Tuple[int, ...]
    """Of its input: (1, C, H, W) of a convolution, (rows, C) of a linear layer."""
    options: Tuple[Tuple[str, Any], ...] = ()
    """ONNX attributes of a convolution."""


@dataclass(frozen=True)
class Choice:
    """One group at one number of kept channels."""

    kept: int
    lost: float
    """Part of the group's importance that goes."""
    factors: Mapping[str, float]
    """Measured time of each of its layers, as a part of the layer's time while whole."""


def prune_to_latency(network: nn.Module, example_NCHW: Tensor, size: InputConfig, target: float,
                     most: float, repeats: int = REPEATS) -> List[Cut]:
    """
    Cut channels in place until the predicted latency is `target` of the whole; return the cuts.

    No group loses more than `most` of its channels. Prints the table of the groups, and the
    measured ratio of the cut network. ConfigError where `target` cannot be met.
    """
    groups = find_groups(network, example_NCHW)
    scores = group_scores(network, groups, 'l1')
    layers = _layers(network, size)
    whole = export_onnx(Deployed(network, size).eval(), size, 17)
    whole_ms, *alone_ms = interleaved_ms([whole, *map(_graph, layers.values())], repeats)
    fit = min(whole_ms / sum(alone_ms), 1.0)  # together they take no more than the whole does
    layer_ms = {name: ms * fit for name, ms in zip(layers, alone_ms, strict=True)}
    table = [_choices(group, score, most, layers, repeats)
             for group, score in zip(groups, scores, strict=True)]
    picked, predicted_ms = pick(table, layer_ms, whole_ms, target)
    _print_table(groups, table, picked, layer_ms)
    if predicted_ms > target * whole_ms:
        raise ConfigError(f'--latency-ratio {target!r}: cutting all that may be cut is predicted '
                          f'to leave {predicted_ms / whole_ms:.2f} of {whole_ms:.2f} ms; take a '
                          f'higher one, or more than --filters {most!r}')
    kept = [(group, best_units(score, table[g][picked[g]].kept if picked[g] >= 0 else len(group)))
            for g, (group, score) in enumerate(zip(groups, scores, strict=True))]
    cuts = group_cuts(network, kept)
    apply_cuts(network, cuts)
    before_ms, after_ms = interleaved_ms(
        [whole, export_onnx(Deployed(network, size).eval(), size, 17)], repeats)
    print(f'latency, 1 thread: predicted {predicted_ms / whole_ms:.3f}, measured '
          f'{after_ms:.2f} / {before_ms:.2f} ms = {after_ms / before_ms:.3f} of the whole')
    if after_ms > target * before_ms:
        print(f'WARNING: the measured ratio is above the {target!r} asked for')
    return cuts


def pick(table: Sequence[Sequence[Choice]], layer_ms: Mapping[str, float], whole_ms: float,
         target: float) -> Tuple[List[int], float]:
    """
    Return which choice each group takes, -1 for none, and the latency that gives, in ms.

    Step by step the choice that saves the most ms per importance lost, as long as the target is
    not met and something saves time.
    """
    picked = [-1] * len(table)

    def predict(trial: Sequence[int]) -> float:
        times = dict(layer_ms)
        for choices, index in zip(table, trial, strict=True):
            for name, factor in (choices[index].factors if index >= 0 else {}).items():
                times[name] *= factor
        return whole_ms + sum(times.values()) - sum(layer_ms.values())

    now = predict(picked)
    while now > target * whole_ms:
        best: Tuple[float, int, int, float] | None = None
        for g, choices in enumerate(table):
            lost = choices[picked[g]].lost if picked[g] >= 0 else 0.0
            for index in range(picked[g] + 1, len(choices)):
                then = predict([*picked[:g], index, *picked[g + 1:]])
                worth = (now - then) / max(choices[index].lost - lost, 1e-9)
                if then < now and (best is None or worth > best[0]):
                    best = worth, g, index, then
        if best is None:
            break
        _, g, index, now = best
        picked[g] = index
    return picked, now


def interleaved_ms(graphs: Sequence[bytes], repeats: int = REPEATS) -> List[float]:
    """Return the median time of each ONNX graph on one thread, run in turns, in ms."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
                for graph in graphs]
    feeds = [{i.name: np.zeros(i.shape, np.uint8 if 'uint8' in i.type else np.float32)
              for i in session.get_inputs()} for session in sessions]
    times: List[List[float]] = [[] for _ in graphs]
    for turn in range(repeats + 2):  # two to warm up
        for session, feed, seen in zip(sessions, feeds, times, strict=True):
            started_s = time.perf_counter()
            session.run(None, feed)
            if turn >= 2:
                seen.append((time.perf_counter() - started_s) * 1e3)
    return [float(np.median(seen)) for seen in times]


def _layers(network: nn.Module, size: InputConfig) -> Dict[str, Layer]:
    """Return every layer that runs in the deployed network, with the shape of its input."""
    shell = copy.deepcopy(network).to('meta').eval()
    found: Dict[str, Layer] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
            shape = tuple(inputs[0].shape)
            if isinstance(module, nn.Conv2d):
                padding = [int(p) for p in module.padding]  # type: ignore[arg-type]
                found[name] = Layer(module.out_channels, module.in_channels, shape, (
                    ('dilations', module.dilation), ('group', module.groups),
                    ('kernel_shape', module.kernel_size), ('pads', (*padding, *padding)),
                    ('strides', module.stride)))
            elif isinstance(module, nn.Linear):
                rows = inputs[0].numel() // module.in_features
                found[name] = Layer(module.out_features, module.in_features,
                                    (rows, module.in_features))
        return hook

    for name, module in shell.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        shell(torch.empty(1, 3, size.height, size.width, device='meta'))
    return found


def _choices(group: Group, scores: Tensor, most: float, layers: Mapping[str, Layer],
             repeats: int) -> List[Choice]:
    """Return what cutting a group in steps saves at each of its layers, timed in turns."""
    counts = sorted({kept_count(len(group), step) for step in STEPS}, reverse=True)
    counts = [c for c in counts if c < len(group) and c >= kept_count(len(group), most)]
    sides = [(kind, name) for kind, name in group.layers if name in layers]
    factors: List[Dict[str, float]] = [{} for _ in counts]
    for kind, name in sides if counts else ():
        own = sum(slot[:2] == (kind, name) for unit in group.units for slot in unit)
        cut = [_narrower(layers[name], kind, own * (len(group) - c) // len(group))
               for c in counts]
        times = interleaved_ms([_graph(layer) for layer in (layers[name], *cut)], repeats)
        for index, factor in enumerate(t / times[0] for t in times[1:]):
            factors[index][name] = factors[index].get(name, 1.0) * factor
    ranked = scores.sort().values
    return [Choice(count, float(ranked[:len(group) - count].sum()), part)
            for count, part in zip(counts, factors, strict=True)]


def _narrower(layer: Layer, kind: str, gone: int) -> Layer:
    options = dict(layer.options)
    depthwise = options.get('group', 1) > 1
    outputs = layer.outputs - (gone if kind == 'out' or depthwise else 0)
    inputs = layer.inputs - (gone if kind == 'in' or depthwise else 0)
    shape = (1, inputs, *layer.shape[2:]) if options else (layer.shape[0], inputs)
    if depthwise:
        options['group'] = inputs
    return Layer(outputs, inputs, shape, tuple(options.items()))


def _graph(layer: Layer) -> bytes:
    """Return an ONNX graph of this layer alone, its weights random."""
    options = dict(layer.options)
    weight_shape = (layer.outputs, layer.inputs // options['group'], *options['kernel_shape']) \
        if options else (layer.inputs, layer.outputs)
    weight = np.random.default_rng(0).standard_normal(weight_shape).astype(np.float32)
    node = onnx.helper.make_node('Conv' if options else 'MatMul', ['x', 'w'], ['y'], **options)
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node], 'layer', [onnx.helper.make_tensor_value_info('x', real, layer.shape)],
        [onnx.helper.make_tensor_value_info('y', real, None)],
        [onnx.numpy_helper.from_array(weight, 'w')])
    model = onnx.helper.make_model(graph, ir_version=8,
                                   opset_imports=[onnx.helper.make_opsetid('', 17)])
    content: bytes = model.SerializeToString()
    return content


def _print_table(groups: Sequence[Group], table: Sequence[Sequence[Choice]],
                 picked: Sequence[int], layer_ms: Mapping[str, float]) -> None:
    """Print what each group takes, what it could save and what was picked."""
    print(f'{"group":<44} {"channels":>8} {"ms":>8}  kept: ms saved (importance lost); * picked')
    for group, choices, index in zip(groups, table, picked, strict=True):
        names = {name for _, name in group.layers if name in layer_ms}
        shown = '  '.join(
            f'{"*" if i == index else ""}{c.kept}: '
            f'{sum(layer_ms[n] * (1 - f) for n, f in c.factors.items()):.3f} ({c.lost:.1f})'
            for i, c in enumerate(choices))
        print(f'{group.name:<44} {len(group):>8} {sum(layer_ms[n] for n in names):>8.3f}  {shown}')
