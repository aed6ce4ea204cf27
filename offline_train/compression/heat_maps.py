# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Where in the image each attention looks, as a picture, before and after compression.

A block's map is the attention every place receives, mean over heads and queries, times the number
of places: 1 is even attention. It is folded back from the tokens to the image plane: MobileViT's
tokens are every second pixel in both directions, Swin's are windows, shifted in every other block,
and SegFormer's keys are a smaller map.
"""
from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
import functools
import math
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import cv2
from evit_seg.core.errors import ConfigError
from matplotlib import rc_context
from matplotlib.figure import Figure
import numpy as np
from offline_train.models.unfolding import fold
from offline_train.reporting.style import new_figure, RC
from offline_train.surgery.blocks import attention_blocks, AttentionBlock
import torch
from torch import nn, Tensor

TILE_IN, BAR_IN = 3.2, 0.9
TINT = 0.65
"""Weight of the map's colours over the grey image."""


@dataclass(frozen=True)
class HeatMap:
    """The attention that each place of a block's map receives, 1 where it is even."""

    map_HW: np.ndarray
    heads: int


def attention_maps(network: nn.Module, image_NCHW: Tensor) -> Dict[str, HeatMap]:
    """
    Return the map of every attention block of a network, by the block's name.

    image_NCHW: one normalised image. ConfigError for a network without attention.
    """
    blocks = attention_blocks(network)
    if not blocks:
        raise ConfigError(f'expected a network with attention, {type(network).__name__} has none')
    places = {block.name: _grid_module(network, block) for block in blocks}
    weights: Dict[str, Tensor] = {}
    inputs: Dict[str, Tuple[Any, ...]] = {}

    def keep_input(name: str, _module: nn.Module, args: Tuple[Any, ...]) -> None:
        inputs[name] = args

    def keep_weights(block: AttentionBlock, joint: bool, _module: nn.Module, _inputs: Any,
                     output: Tensor) -> None:
        weights[block.name] = _token_weights(block, output) if joint else output

    handles = []
    for block in blocks:
        joint = hasattr(network.get_submodule(block.name), 'query_key_value')
        # The dropout on the attention matrix sees it in all of timm's and smp's modules.
        source = f'{block.name}.{"query_key_value" if joint else "attn_drop"}'
        handles.append(network.get_submodule(source).register_forward_hook(
            functools.partial(keep_weights, block, joint)))
        handles.append(network.get_submodule(places[block.name]).register_forward_pre_hook(
            functools.partial(keep_input, block.name)))
    with torch.no_grad(), _unfused(network):
        network.eval()(image_NCHW)
    for handle in handles:
        handle.remove()
    return {block.name: HeatMap(_fold(network, block, places[block.name], weights[block.name],
                                      inputs[block.name]), block.heads) for block in blocks}


@contextmanager
def _unfused(network: nn.Module) -> Iterator[None]:
    """Let timm's attention show its matrix inside the `with`: the fused operator never has one."""
    fused = [m for m in network.modules() if getattr(m, 'fused_attn', False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    yield
    for module in fused:
        module.fused_attn = True  # type: ignore[assignment]


def _grid_module(network: nn.Module, block: AttentionBlock) -> str:
    """Return the module whose input tells the grid that a block's tokens come from."""
    module = network.get_submodule(block.name)
    if hasattr(module, 'query_key_value') or hasattr(module, 'kv'):
        return block.name  # a map, or tokens with the grid's height and width
    name = block.name
    while name:
        name = name.rpartition('.')[0]
        kind = type(network.get_submodule(name)).__name__
        if kind == 'SwinTransformerV2Block':
            return name
        if kind == 'PatchedBlock':
            return f'{name}.conv_1x1'
    raise ConfigError(f'{block.name}: expected an attention of MobileViT, Swin v2, SegFormer or '
                      f'the token pyramid, got a {type(module).__name__}')


def _token_weights(block: AttentionBlock, joint_NCHW: Tensor) -> Tensor:
    """Return the attention of a token block from its queries, keys and values."""
    joint = joint_NCHW.reshape(joint_NCHW.shape[0], block.heads, -1,
                               math.prod(joint_NCHW.shape[2:]))
    query, key, _ = joint.split([block.head_dim, block.head_dim, block.value_dim], dim=2)
    return (query.transpose(2, 3) @ key * block.head_dim ** -0.5).softmax(dim=3)


def _fold(network: nn.Module, block: AttentionBlock, place: str, weights: Tensor,
          args: Tuple[Any, ...]) -> np.ndarray:
    """Return the mean attention to each key, (groups, heads, queries, keys), as a map (H, W)."""
    received = weights.float().mean(dim=(1, 2))  # (groups, keys)
    received = received * received.shape[1]
    module, outer = network.get_submodule(block.name), network.get_submodule(place)
    if hasattr(module, 'query_key_value'):
        folded = received.reshape(args[0].shape[2:])
    elif hasattr(module, 'kv'):
        ratio = int(module.sr_ratio)  # type: ignore[arg-type]
        height, width = (int(side) // ratio for side in args[1:3])
        folded = received.reshape(height, width)
    elif place == block.name.rpartition('.')[0]:
        folded = _fold_windows(outer, received, args[0].shape[1:3])
    else:
        patch: Tuple[int, int] = network.get_submodule(
            place.rpartition('.')[0]).patch_size  # type: ignore[assignment]
        height, width = (-(-side // step) * step
                         for side, step in zip(args[0].shape[2:], patch, strict=True))
        folded = fold(received[:, :, None], (1, height, width), patch)[0, 0]
    return np.asarray(folded.cpu().numpy())


def _fold_windows(swin_block: Any, received: Tensor, size: Sequence[int]) -> Tensor:
    """Put windows (windows, tokens) side by side and shift them back."""
    height, width = swin_block.window_size
    rows, columns = -(-size[0] // height), -(-size[1] // width)
    planes = received.reshape(rows, columns, height, width).transpose(1, 2)
    whole = planes.reshape(rows * height, columns * width)[:size[0], :size[1]]
    return torch.roll(whole, tuple(swin_block.shift_size), (0, 1))


def draw_heat_maps(image_HWC: np.ndarray,
                   columns: Mapping[str, Mapping[str, HeatMap]]) -> Figure:
    """
    Return a figure: a row for each block, the image first, then its map from each network.

    image_HWC: uint8 RGB. columns: title -> maps of attention_maps; a block that one network has
    lost is said to be taken out. The colours of a row mean the same in all its maps.
    """
    names: List[str] = list(dict.fromkeys(n for maps in columns.values() for n in maps))
    height_in = TILE_IN * image_HWC.shape[0] / image_HWC.shape[1] + 0.35
    figure, axes = new_figure(TILE_IN * (1 + len(columns)) + BAR_IN, height_in * len(names) + 0.3,
                              nrows=len(names), ncols=1 + len(columns))
    grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    with rc_context(RC):
        for row, name in enumerate(names):
            found = {title: maps[name] for title, maps in columns.items() if name in maps}
            top = max(float(heat.map_HW.max()) for heat in found.values())
            cells = axes[row * (1 + len(columns)):(row + 1) * (1 + len(columns))]
            cells[0].imshow(image_HWC)
            cells[0].set_title(_short(name), fontsize=8)
            for cell, title in zip(cells[1:], columns, strict=True):
                cell.imshow(grey_HW, cmap='gray', vmin=0, vmax=255)
                if title not in found:
                    cell.set_title(f'{title}: taken out', fontsize=9)
                    continue
                heat = found[title]
                size = (grey_HW.shape[1], grey_HW.shape[0])
                drawn = cell.imshow(cv2.resize(heat.map_HW, size, interpolation=cv2.INTER_LINEAR),
                                    cmap='inferno', vmin=0, vmax=top, alpha=TINT)
                heads = f'{heat.heads} head{"s" if heat.heads > 1 else ""}'
                cell.set_title(f'{title}: {heads}, up to {heat.map_HW.max():.2g}', fontsize=9)
            figure.colorbar(drawn, ax=cells, shrink=0.9, label='attention, 1 = even')
            for cell in cells:
                cell.set_axis_off()
    return figure


def _short(name: str) -> str:
    """Return a block's name without what all of them share."""
    return name.removeprefix('backbone.').removesuffix('.attn')
