# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Which channels of a network live and die together.

Channels that are added to each other, or that pass a normalisation or a depthwise convolution,
can only go together. Who meets whom is seen by running the network: the outputs of one layer
are made not-a-number, each channel in other images of a batch than the others (its index in
binary), and every layer writes down which of its inputs are none. A convolution or linear layer
ends the trace. A channel that spreads to others (attention, a sum over channels) or reaches the
logits is left alone: cutting it would change what the others are.

A LayerNorm keeps its channels apart but for their mean and deviation, which after a cut are those
of the channels that stay: a network cut there is near the zeroed one, elsewhere it is the same,
output for output. `norms` says which are passed: none; those of maps (LayerNorm2d: what a backbone
hands to UPerNet's decoder), behind which lie filters of convolutions like any other; or also those
of tokens, which cuts the width of a transformer.

Torch-Pruning 1.6 (2301.12900) finds the same groups of `bilateral`; a test holds the two against
each other. It fails on Swin, SegFormer, token pyramid and PIDNet.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Sequence, Tuple

from offline_train.surgery.blocks import attention_blocks, head_inputs, mlp_blocks
from offline_train.surgery.cuts import apply_cuts, Cut
import torch
from torch import nn, Tensor

MULTIPLE = 8
"""Kept channels are a multiple of it: what vector units and tensor cores work in."""
Slot = Tuple[str, str, int]
"""`out` or `in`, a layer's dotted name, the index of one of its channels."""


@dataclass(frozen=True)
class Group:
    """Channels of several layers that go together, unit by unit."""

    units: Tuple[Tuple[Slot, ...], ...]
    """Each unit's slots; all units have slots at the same layers."""

    def __len__(self) -> int:
        return len(self.units)

    @property
    def layers(self) -> Tuple[Tuple[str, str], ...]:
        """Return (`out` or `in`, dotted name) of every layer that is cut."""
        return tuple(sorted({slot[:2] for slot in self.units[0]}))

    @property
    def name(self) -> str:
        """Return the first layer that makes these channels."""
        return next(layer for kind, layer, _ in self.units[0] if kind == 'out')


def find_groups(network: nn.Module, example_NCHW: Tensor, norms: str = 'maps') -> List[Group]:
    """
    Return the groups of channels that can be cut, in the order of the network's layers.

    Outputs of attention's projections and hidden units of MLPs are not among them: heads and
    hidden units are cut by their own options. example_NCHW: one image; small is quick.
    norms: which LayerNorms a channel may pass, 'none', 'maps' or 'tokens' (maps and tokens).
    """
    order = {name: i for i, (name, _) in enumerate(network.named_modules())}
    kept_whole = {block.expand for block in mlp_blocks(network)} | {
        name for block in attention_blocks(network) for name, _, _ in head_inputs(network, block)}
    links: Dict[Slot, Slot] = {}
    frozen = set()
    tracer = _Tracer(network, example_NCHW, norms)
    for producer, module in network.named_modules():
        if not _mixes(module) or _groups(module) > 1:
            continue
        found = None if producer in kept_whole else tracer.trace(producer, _width(module))
        if found is None:
            frozen.add(producer)
        for slot, channel in (found or {}).items():
            _join(links, slot, ('out', producer, channel))
        for channel in range(_width(module)):
            _root(links, ('out', producer, channel))
    units: Dict[Slot, List[Slot]] = {}
    for slot in sorted(links, key=lambda slot: (order[slot[1]], slot[0] == 'in', slot[2])):
        units.setdefault(_root(links, slot), []).append(slot)
    by_layers: Dict[FrozenSet[Tuple[str, str]], List[Tuple[Slot, ...]]] = {}
    for unit in units.values():
        if not any(kind == 'out' and layer in frozen for kind, layer, _ in unit):
            by_layers.setdefault(frozenset(s[:2] for s in unit), []).append(tuple(unit))
    groups = [Group(tuple(unit)) for layers, unit in by_layers.items()
              if any(kind == 'in' for kind, _ in layers)]
    return _that_run(network, example_NCHW, groups)


def kept_count(size: int, ratio: float) -> int:
    """Return how many of `size` channels stay: the nearest multiple of 8, half-way down."""
    kept = -(-int(round((1 - ratio) * size * 2) - MULTIPLE) // (2 * MULTIPLE)) * MULTIPLE
    return min(max(kept, MULTIPLE), size)


def group_cuts(network: nn.Module, kept: Sequence[Tuple[Group, Sequence[int]]]) -> List[Cut]:
    """Return the cuts that leave each group its units `kept`: one line for a layer's side."""
    gone: Dict[Tuple[str, str], set[int]] = {}
    for group, numbers in kept:
        for unit in set(range(len(group))) - set(numbers):
            for kind, layer, channel in group.units[unit]:
                gone.setdefault((kind, layer), set()).add(channel)
    cuts = []
    for (kind, layer), channels in gone.items():
        width = _width(network.get_submodule(layer), kind)
        cuts.append(Cut(kind, layer, tuple(c for c in range(width) if c not in channels)))
    return cuts


class _MixedError(Exception):
    """A channel has spread to others: no need to run on."""


class _Tracer:
    """A copy of the network whose layers write down which of their inputs are not numbers."""

    def __init__(self, network: nn.Module, example_NCHW: Tensor, norms: str) -> None:
        self.network = copy.deepcopy(network).eval()
        self.norms = norms
        self.network.training = True  # of itself alone: the auxiliary head joins in
        self.example_NCHW = example_NCHW
        self.modules = dict(self.network.named_modules())

    @torch.no_grad()
    def trace(self, producer: str, width: int) -> Dict[Slot, int] | None:
        """Return where each output channel of a layer arrives; None if it cannot be cut."""
        bits = max((width - 1).bit_length(), 1)
        marks_BC = torch.tensor([[bool(c >> b & 1) == sign for c in range(width)]
                                 for sign in (True, False) for b in range(bits)])
        found: Dict[Slot, int] = {}

        def record(kind: str, name: str) -> Callable[..., Any]:
            def hook(module: nn.Module, inputs: Tuple[Tensor, ...]) -> Any:
                x = inputs[0]
                seen_BC = _seen(x, _channel_dim(module), len(marks_BC))
                if not seen_BC.any():
                    return None
                ones_C, zeros_C = seen_BC[:bits], seen_BC[bits:]
                touched_C = (ones_C | zeros_C).any(0)
                grouped = kind == 'in' and _groups(module) > 1
                if grouped or (ones_C == zeros_C)[:, touched_C].any():
                    raise _MixedError
                values_C = (ones_C.long() << torch.arange(bits)[:, None]).sum(0)
                for j in touched_C.nonzero().flatten().tolist():
                    if found.setdefault((kind, name, j), int(values_C[j])) != int(values_C[j]):
                        raise _MixedError
                return (torch.nan_to_num(x), *inputs[1:]) if kind == 'in' else None
            return hook

        def poison(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            dim = _channel_dim(module)
            if output.shape[0] % len(marks_BC):
                raise _MixedError
            rows = marks_BC.repeat_interleave(output.shape[0] // len(marks_BC), 0)
            shape = [len(rows)] + [1] * (output.ndim - 1)
            shape[dim] = width
            return output.masked_fill(rows.view(shape), float('nan'))

        handles = [self.modules[producer].register_forward_hook(poison)]
        for name, module in self.modules.items():
            if _mixes(module):
                kind = 'out' if _depthwise(module) else 'in'
                handles.append(module.register_forward_pre_hook(record(kind, name)))
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                handles.append(module.register_forward_pre_hook(record('out', name)))
            elif isinstance(module, nn.LayerNorm) and (
                    self.norms == 'tokens' or (self.norms == 'maps' and _of_maps(module))):
                handles.append(module.register_forward_pre_hook(record('out', name)))
                handles.append(module.register_forward_hook(_apart))
        try:
            outputs = self.network(self.example_NCHW.expand(len(marks_BC), -1, -1, -1))
        except _MixedError:
            return None
        finally:
            for handle in handles:
                handle.remove()
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        return None if any(x.isnan().any() for x in outputs) else found


def _apart(module: nn.Module, inputs: Tuple[Tensor, ...], _output: Tensor) -> Tensor:
    """Return what a LayerNorm gives with only those channels not a number that came so."""
    x = inputs[0]
    output: Tensor = module.forward(torch.nan_to_num(x))  # the hooks stay out of it
    return output.masked_fill(x.isnan(), float('nan'))


def _seen(x: Tensor, dim: int, batch: int) -> Tensor:
    """Return (batch, channels): is any number none; images may have been cut into more rows."""
    channels = x.isnan().movedim(dim, -1)
    if x.shape[0] % batch:  # not by images any more: every mark, so that it counts as mixed
        return channels.any().expand(batch, x.shape[dim])
    return channels.reshape(batch, -1, x.shape[dim]).any(1)


def _that_run(network: nn.Module, example_NCHW: Tensor, groups: List[Group]) -> List[Group]:
    """Return the groups that can be cut; a shape written into a forward pass forbids it."""
    if _runs(network, example_NCHW, groups):
        return groups
    return [group for group in groups if _runs(network, example_NCHW, [group])]


def _runs(network: nn.Module, example_NCHW: Tensor, groups: List[Group]) -> bool:
    shell = copy.deepcopy(network).to('meta').eval()
    shell.training = True
    apply_cuts(shell, group_cuts(shell, [(g, range(-(-len(g) // 2))) for g in groups]))
    try:
        with torch.no_grad():
            shell(example_NCHW.to('meta'))
    except RuntimeError:
        return False
    return True


def _mixes(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.Linear))


def _groups(module: nn.Module) -> int:
    return int(getattr(module, 'groups', 1))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) \
        and module.groups == module.in_channels == module.out_channels > 1


def _of_maps(norm: nn.LayerNorm) -> bool:
    """Whether it takes (N, C, H, W); timm and segmentation_models.pytorch share the name."""
    return type(norm).__name__ == 'LayerNorm2d'


def _channel_dim(module: nn.Module) -> int:
    if isinstance(module, nn.LayerNorm):
        return 1 if _of_maps(module) else -1
    return -1 if isinstance(module, nn.Linear) else 1


def _width(module: nn.Module, kind: str = 'out') -> int:
    if isinstance(module, nn.Conv2d):
        return module.out_channels if kind == 'out' else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if kind == 'out' else module.in_features
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[0]
    return int(module.num_features)  # type: ignore[arg-type]


def _root(links: Dict[Slot, Slot], slot: Slot) -> Slot:
    """Return the slot that stands for all that are joined with this one."""
    while links.setdefault(slot, slot) != slot:
        links[slot] = links[links[slot]]
        slot = links[slot]
    return slot


def _join(links: Dict[Slot, Slot], one: Slot, other: Slot) -> None:
    links[_root(links, one)] = _root(links, other)


def channels_of(group: Group, kind: str, layer: str) -> Mapping[int, int]:
    """Return which unit each channel of a layer's side belongs to."""
    return {channel: unit for unit, slots in enumerate(group.units)
            for k, name, channel in slots if (k, name) == (kind, layer)}
