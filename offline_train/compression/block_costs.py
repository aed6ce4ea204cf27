# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What an attention head and an FFN block cost at the deployed size: counted, measured or read.

Counted are the multiply-adds, or the bytes that go through memory: weights once, what a layer
reads and writes, an attention matrix four times (written, read and written by the softmax, read);
element-wise operations count as fused with their neighbours. Swin v2's position bias is left out:
it is a constant of the exported graph. Measured is a block alone in ONNX Runtime. Read is a JSON
table of block name to number, such as the ms or mJ that were measured on the target.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass, field
import functools
import io
import json
import math
from pathlib import Path
import statistics
import time
from typing import Any, Dict, List, Sequence, Tuple, Union
import warnings

from evit_seg.core.errors import ConfigError, InputError
from offline_train.surgery.blocks import attention_blocks, AttentionBlock, mlp_blocks, MlpBlock
import torch
from torch import nn, Tensor

COUNTED = ('macs', 'bytes')
PRECISION_BYTES = {'fp32': 4, 'fp16': 2, 'int8': 1}
FEEDING = ('qkv', 'q', 'kv', 'query_key_value')  # the layers that make queries, keys and values
CONSTANT = 'cpb_mlp'  # Swin v2's position bias
ROUNDS = 21


Block = Union[AttentionBlock, MlpBlock]


def blocks_of(network: nn.Module) -> List[Block]:
    """Return the blocks that have a cost and may get gates: attentions, then MLPs."""
    return [*attention_blocks(network), *mlp_blocks(network)]


@dataclass(frozen=True)
class BlockCost:
    """Cost of one gate's part of a block: of a head, or of a whole MLP."""

    gate: float
    rest: float = 0.0
    """What an attention costs beside its heads: SegFormer's reduction, the way in and out."""


@dataclass
class _Pass:
    """What one pass of a network at the deployed size gave a block and its layers."""

    args: Tuple[Any, ...] = ()
    kwargs: Dict[str, Any] = field(default_factory=dict)
    layers: Dict[str, Tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Input and output of each layer that was called, by its dotted name."""


def block_costs(network: nn.Module, cost: str, size: Tuple[int, int],
                precision: str = 'fp32') -> Dict[str, BlockCost]:
    """
    Return the cost of each block by name, all in one unit.

    cost: macs, bytes, latency (ms), or the path of a JSON table. size: (height, width) of the
    deployed input. precision: of weights and activations, for bytes. ConfigError where a table
    lacks a block or has a cost that is no positive number, InputError for one that is no table.
    """
    if cost in COUNTED:
        shell = copy.deepcopy(network).to('meta').eval()
        passes = _watch(shell, torch.empty(1, 3, *size, device='meta'))
        if cost == 'macs':
            return {name: _macs(shell, name, seen) for name, seen in passes.items()}
        scale = PRECISION_BYTES[precision]
        return {name: _bytes(shell, name, seen, scale) for name, seen in passes.items()}
    table = measured_ms(network, size) if cost == 'latency' else _read_table(Path(cost))
    return _shared(network, table, f'gates.cost: {cost}')


def write_table(path: Path, network: nn.Module, size: Tuple[int, int]) -> None:
    """Write a JSON table of each block's latency on this machine, in ms, for gates.cost."""
    table = {name: round(ms, 5) for name, ms in measured_ms(network, size).items()}
    path.write_text(json.dumps(table, indent=1) + '\n', encoding='utf-8')


def measured_ms(network: nn.Module, size: Tuple[int, int],
                rounds: int = ROUNDS) -> Dict[str, float]:
    """
    Return the median time of each whole block alone in ONNX Runtime on this machine, in ms.

    Blocks take turns, so that a busy moment meets all of them. Where an attention module holds an
    MLP (the token pyramid), the MLP's time is taken off.
    """
    copied = copy.deepcopy(network).cpu().float().eval()
    runners = {name: _runner(copied.get_submodule(name), seen)
               for name, seen in _watch(copied, torch.zeros(1, 3, *size)).items()}
    times_ms: Dict[str, List[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            started_s = time.perf_counter()
            run()
            times_ms[name].append((time.perf_counter() - started_s) * 1e3)
    medians = {name: statistics.median(values) for name, values in times_ms.items()}
    return {name: max(ms - sum(inner for other, inner in medians.items()
                               if other.startswith(f'{name}.')), 1e-6)
            for name, ms in medians.items()}


def _watch(network: nn.Module, image_NCHW: Tensor) -> Dict[str, _Pass]:
    """Return what every block and its layers take and give in one pass, by block name."""
    passes = {block.name: _Pass() for block in blocks_of(network)}

    def note_block(name: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        passes[name].args, passes[name].kwargs = args, kwargs

    def note_layer(name: str, owner: str, _module: nn.Module, inputs: Any, output: Any) -> None:
        passes[owner].layers[name] = (inputs[0], output)

    handles = []
    for name in passes:
        block = network.get_submodule(name)
        handles.append(block.register_forward_pre_hook(functools.partial(note_block, name),
                                                       with_kwargs=True))
        for inner, layer in block.named_modules(prefix=name):
            owner = max((n for n in passes if f'{inner}.'.startswith(f'{n}.')), key=len)
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and owner == name:
                handles.append(layer.register_forward_hook(
                    functools.partial(note_layer, inner, name)))
    with torch.no_grad():
        network(image_NCHW)
    for handle in handles:
        handle.remove()
    return passes


def _macs(network: nn.Module, name: str, seen: _Pass) -> BlockCost:
    layers = {at: out.numel() * _weight(network, at)[0].numel()
              for at, (_, out) in seen.layers.items()}
    attention = _attention(network, name)
    if attention is None:
        return BlockCost(float(sum(layers.values())))
    shape = _Shape.of(network, attention, seen)
    head = (shape.queries * attention.head_dim * shape.width_in
            + shape.keys * (attention.head_dim + attention.value_dim) * shape.width_in
            + shape.pairs * (attention.head_dim + attention.value_dim)
            + shape.queries * attention.value_dim * shape.width_out)
    return BlockCost(float(head), float(sum(
        macs for at, macs in layers.items() if at in shape.others)))


def _bytes(network: nn.Module, name: str, seen: _Pass, scale: int) -> BlockCost:
    layers = {at: x.numel() + out.numel() + _weight(network, at).numel()
              for at, (x, out) in seen.layers.items()}
    attention = _attention(network, name)
    if attention is None:
        return BlockCost(float(scale * sum(layers.values())))
    shape = _Shape.of(network, attention, seen)
    channels = 2 * attention.head_dim + attention.value_dim
    head = (channels * shape.width_in + attention.value_dim * shape.width_out
            + 2 * (shape.queries * (attention.head_dim + attention.value_dim)
                   + shape.keys * (attention.head_dim + attention.value_dim))
            + 4 * shape.pairs)
    through = seen.args[0].numel() + shape.queries * shape.width_out
    return BlockCost(float(scale * head), float(scale * (through + sum(
        moved for at, moved in layers.items() if at in shape.others))))


@dataclass(frozen=True)
class _Shape:
    """Sizes of an attention in one pass, all windows or patches of the image together."""

    queries: int
    keys: int
    pairs: int
    """Entries of one head's attention matrices."""
    width_in: int
    width_out: int
    others: Sequence[str]
    """Layers of the module whose work no single head saves."""

    @classmethod
    def of(cls, network: nn.Module, block: AttentionBlock, seen: _Pass) -> _Shape:
        x = seen.args[0]  # (groups, tokens, C) or (N, C, h, w)
        groups = x.shape[0]
        tokens = math.prod(x.shape[2:]) if x.ndim == 4 else x.shape[1]
        feeding = [at for part in FEEDING for at in [_last_layer(network, f'{block.name}.{part}')]
                   if at]
        keys = next((out.shape[1] for at, (_, out) in seen.layers.items()
                     if at.startswith(f'{block.name}.kv')), tokens)
        others = [at for at in seen.layers if at not in (*feeding, block.project)
                  and f'.{CONSTANT}.' not in at]
        return cls(groups * tokens, groups * keys, groups * tokens * keys,
                   _weight(network, feeding[0]).shape[1], _weight(network, block.project).shape[0],
                   others)


def _attention(network: nn.Module, name: str) -> AttentionBlock | None:
    return next((b for b in attention_blocks(network) if b.name == name), None)


def _last_layer(network: nn.Module, name: str) -> str:
    """Return the last linear layer or convolution of a module; '' where there is none such."""
    try:
        module = network.get_submodule(name)
    except AttributeError:
        return ''
    found = [inner for inner, layer in module.named_modules(prefix=name)
             if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return found[-1] if found else ''


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.get_submodule(name).weight  # type: ignore[return-value]


class _Alone(nn.Module):
    """A block whose other arguments (grid size, window mask) are constants."""

    def __init__(self, block: nn.Module, seen: _Pass) -> None:
        super().__init__()
        self.block = block
        self._seen = seen

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on what its first argument is."""
        result: Tensor = self.block(x, *self._seen.args[1:], **self._seen.kwargs)
        return result


def _runner(block: nn.Module, seen: _Pass) -> Any:
    """Return a function that runs the block in ONNX Runtime, with torch's threads, warmed up."""
    import onnxruntime
    example = seen.args[0].detach()
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # as in deployed.py: traced shapes are constants
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(_Alone(block, seen).eval(), (example,), buffer,  # type: ignore
                          input_names=['x'], opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(buffer.getvalue(), options,
                                           providers=['CPUExecutionProvider'])
    feed = {'x': example.numpy()}
    session.run(None, feed)
    return functools.partial(session.run, None, feed)


def _read_table(path: Path) -> Dict[str, float]:
    try:
        table = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'gates.cost: expected macs, bytes, latency or a readable JSON table, '
                         f'got {str(path)!r}: {error}') from error
    if not isinstance(table, dict):
        raise InputError(f'{path}: expected a JSON object of block name to number, got '
                         f'{type(table).__name__}')
    return table


def _shared(network: nn.Module, table: Dict[str, Any], where: str) -> Dict[str, BlockCost]:
    """Return a table of whole blocks as the cost of their gates: each head has an equal share."""
    costs = {}
    for block in blocks_of(network):
        value = table.get(block.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or \
                not 0 < value < math.inf:
            raise ConfigError(f'{where}: expected a cost above 0 for the block {block.name!r}, '
                              f'got {value!r}')
        heads = block.heads if isinstance(block, AttentionBlock) else 1
        costs[block.name] = BlockCost(value / heads)
    return costs
