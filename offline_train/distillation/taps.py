# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Take the feature map of a stride out of any network of the zoo while it runs."""
from __future__ import annotations

import copy
from dataclasses import dataclass
import functools
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type

from evit_seg.core.errors import ConfigError
from offline_train.models.bilateral import BilateralNet
from offline_train.models.decoders import DecodedNet
from offline_train.models.pidnet import PidNet
from offline_train.models.token_pyramid import TokenPyramid, TOKENS_AT
import torch
from torch import nn, Tensor

#: Modules whose outputs are the maps of a network without a `backbone`, from fine to coarse.
LEVELS: Dict[Type[nn.Module], Tuple[str, ...]] = {
    BilateralNet: ('stem', 'context8', 'context16', 'context32'),
    PidNet: ('stem.3', 'stem', 'context16', 'context32', 'context64'),
    TokenPyramid: tuple(f'blocks.{index}' for index in TOKENS_AT),
}
DRY_RUN_PX = 64  # side of the image that tells where the maps are: every network takes it


@dataclass(frozen=True)
class Place:
    """Where a network has the map of one stride."""

    module: str
    """Dotted name of the module that answers with it."""
    index: int
    """Which of the module's maps it is; 0 where there is one."""
    channels: int
    """Channels of the map."""


class FeatureTap:
    """
    Keeps the map of one stride of a network's last forward pass, until it is taken.

    The network and what it returns stay as they are: a forward hook looks on. Where a network has
    several maps of a stride (atrous ones), it is the deepest. A pass outside of training leaves
    its map here too, until the next pass, `pop` or `close`.
    """

    def __init__(self, network: nn.Module, stride: int) -> None:
        """Attach to a network; ConfigError names its strides when this one is none of them."""
        places = find_places(network)
        if stride not in places:
            raise ConfigError(f'{type(network).__name__} has no feature map at stride {stride!r}, '
                              f'expected one of {", ".join(map(str, sorted(places)))}')
        self._place = places[stride]
        self._channels_last = _is_channels_last(network)
        self._map_NCHW: Optional[Tensor] = None
        # A bound method: a deep copy of the network gets a tap of its own.
        self._handle = network.get_submodule(self._place.module).register_forward_hook(self._keep)

    @property
    def channels(self) -> int:
        """Return the channels of the map."""
        return self._place.channels

    def pop(self) -> Tensor:
        """
        Return the map of the last forward pass, float32 (N, channels, h, w), and forget it.

        It has the gradient history of that pass. RuntimeError when there was none since the last
        time.
        """
        if self._map_NCHW is None:
            raise RuntimeError('the tapped network has not run since its map was last taken')
        taken, self._map_NCHW = self._map_NCHW, None
        return taken.float()

    def close(self) -> None:
        """Unhook and forget the map; closing twice is fine."""
        self._handle.remove()
        self._map_NCHW = None

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._map_NCHW = _maps(output, self._channels_last)[self._place.index]


def find_places(network: nn.Module) -> Dict[int, Place]:
    """
    Return by stride where a network of the zoo has its feature maps.

    Found by a pass of a copy on the meta device: nothing is computed, no random number is drawn
    and running statistics stay. ConfigError for a network that is none of the zoo's.
    """
    shell = copy.deepcopy(network).to('meta').eval()
    outputs: Dict[str, List[Tensor]] = {}

    def note(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[name] = _maps(output, _is_channels_last(network))

    names = _module_names(network)
    for name in names:
        shell.get_submodule(name).register_forward_hook(functools.partial(note, name))
    with torch.no_grad():
        shell(torch.empty(1, 3, DRY_RUN_PX, DRY_RUN_PX, device='meta'))
    places = {}
    for name in names:
        for index, x_NCHW in enumerate(outputs[name]):
            stride = DRY_RUN_PX // int(x_NCHW.shape[2])
            channels = int(x_NCHW.shape[1])
            if stride > 1 and channels:  # some encoders pass the image on, or an empty map
                places[stride] = Place(name, index, channels)
    return places


def _module_names(network: nn.Module) -> Sequence[str]:
    if hasattr(network, 'backbone'):
        return ('backbone',)
    if type(network) in LEVELS:
        return LEVELS[type(network)]
    raise ConfigError('expected a network with a backbone or one of '
                      f'{", ".join(sorted(kind.__name__ for kind in LEVELS))}, got '
                      f'{type(network).__name__!r}: it has no known feature maps; turn '
                      'distil.mimic and distil.generation off')


def _is_channels_last(network: nn.Module) -> bool:
    """Return whether the backbone answers with (N, H, W, C), as Swin's do."""
    return isinstance(network, DecodedNet) and network.channels_last


def _maps(output: Tensor | Sequence[Tensor], channels_last: bool) -> List[Tensor]:
    """Return a module's answer, one map or several, as (N, C, H, W) each."""
    maps = [output] if isinstance(output, Tensor) else list(output)
    return [x.permute(0, 3, 1, 2) for x in maps] if channels_last else maps
