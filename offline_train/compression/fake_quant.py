# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Train with the rounding of int8 in the forward pass, so that the network learns to stand it.

What is imitated is what `offline_train quantize` does to the exported graph: the weights of
convolutions and linear layers as symmetric int8 with a scale per output channel, their inputs as
asymmetric uint8 with one scale and zero point per tensor. Weights and names stay those of the
plain network; the averaged weights are exported and quantized like any others.

The quantizer is affine (scale and zero point) as in "Energy-Efficient Transformer Compression for
Real-Time Semantic Segmentation on Resource-Constrained Edge Devices", but rounds to nearest, ties
to even, as ONNX's QuantizeLinear does; that paper writes a floor, which shifts every value by
half a step. Gradients pass straight through where a value lies in the range and are 0 outside
(Jacob et al. 2018, arXiv 1712.05877; Bengio et al. 2013, arXiv 1308.3432).

BatchNorm is not folded here although the exporter folds it before weights are quantized. The
fold multiplies each output channel by a factor f = gamma / sigma. The channel's scale is its
largest magnitude / 127, so the fold makes it |f| times as large: w f / (s |f|) is w / s or its
negative, rounding to nearest even is odd, hence quantize(f w) = f quantize(w) up to float32's
last bits, for positive and negative f alike.

torchao 0.18's pt2e was tried first. It trains the convolutional networks, on a graph of one image
size. With autocast to bfloat16 it stops at attention ("expected scalar type Float but found
BFloat16"); it divides by gamma, which is 0 in timm's fresh residual branches (NaN); and the
TorchScript exporter, the one that writes opset 13, refuses what it converts.

Products of two activations (attention's q k and its weights times v) are not imitated.
"""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Tuple

from offline_train.sections import QuantConfig
import torch
from torch import nn, Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WEIGHT_LIMIT = 127  # symmetric: -128 is not used, as in ONNX Runtime
ACTIVATION_LIMIT = 255
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


class FakeQuantizer(nn.Module):
    """
    Rounds weights and inputs of a network's convolutions and linear layers, while it is active.

    Layers are recognised by their weight where it is used, so that it also works where a block
    takes the weight out of its layer (timm's Swin v2 does). Its buffers hold one entry per layer,
    in the order of `names`.
    """

    def __init__(self, network: nn.Module, config: QuantConfig, steps: int) -> None:
        """Find the layers of a network; `steps` is the length of the run."""
        super().__init__()
        found = [(name, module) for name, module in network.named_modules()
                 if isinstance(module, (nn.Conv2d, nn.Linear))]
        self.names: Tuple[str, ...] = tuple(name for name, _ in found)
        self._layers = tuple(module for _, module in found)  # a tuple: no second owner of weights
        self._config = config
        self._freeze_at = int(config.freeze * steps)
        self.low: Tensor
        self.high: Tensor
        self.seen: Tensor
        self.register_buffer('low', torch.zeros(len(found)))
        self.register_buffer('high', torch.zeros(len(found)))
        self.register_buffer('seen', torch.zeros(len(found)))
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Say which step is next: it is what decides if activations are watched and rounded."""
        self._round = step >= self._config.observe
        self._watch = step < self._freeze_at

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let the network compute with rounded numbers inside the `with`."""
        places = {id(layer.weight): index for index, layer in enumerate(self._layers)}
        with _Interception(self._rounded, places):
            yield

    def _rounded(self, index: int, x: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
        """Return what a layer takes in and its weight as the quantized layer would have them."""
        weight = round_weight(weight)
        watch = self._watch and self.training
        if not watch and not self._round:
            return x, weight
        x_float = x.float()  # bfloat16 has too few bits to find the cell of a value
        if watch:
            self._observe(index, x_float.detach())
        if self._round:
            x = round_activation(x_float, self.low[index], self.high[index]).to(x.dtype)
        return x, weight

    @torch.no_grad()
    def _observe(self, index: int, x: Tensor) -> None:
        """Move a layer's range towards the batch's: a plain mean at first, then the average."""
        rate = (1 / (self.seen[index] + 1)).clamp(min=1 - self._config.range_decay)
        for bound, value in zip((self.low, self.high), torch.aminmax(x), strict=True):
            bound[index].lerp_(value, rate)
        self.seen[index] += 1


def scale_and_zero_point(low: Tensor, high: Tensor) -> Tuple[Tensor, Tensor]:
    """Return float32 scale and int32 zero point of uint8 over [low, high], widened to hold 0."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / ACTIVATION_LIMIT).clamp(min=SMALLEST_SCALE)
    return scale, (-low / scale).round().to(torch.int32)


def round_activation(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return float32 x on the 256 values that uint8 has for [low, high]."""
    scale, zero_point = scale_and_zero_point(low, high)
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0,
                                                            ACTIVATION_LIMIT)
    return rounded


def round_weight(weight: Tensor) -> Tensor:
    """Return a weight (outputs, ...) on the 255 values per output that int8 has for it."""
    largest_O = weight.detach().flatten(1).abs().amax(1)
    scale_O = (largest_O / WEIGHT_LIMIT).clamp(min=SMALLEST_SCALE)
    zero_O = torch.zeros_like(scale_O, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scale_O, zero_O, 0,
                                                             -WEIGHT_LIMIT, WEIGHT_LIMIT)
    return rounded


class _Interception(TorchFunctionMode):
    """Puts rounded inputs and weights into calls with one of the known weights."""

    def __init__(self, rounded: Callable[[int, Tensor, Tensor], Tuple[Tensor, Tensor]],
                 places: Mapping[int, int]) -> None:
        super().__init__()
        self._rounded = rounded
        self._places = places

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type],
                           args: Sequence[Any] = (),
                           kwargs: Optional[Dict[str, Any]] = None) -> Any:
        """Call a function of torch; a convolution or linear layer with what it is to see."""
        named = dict(kwargs or {})
        if func is functional.conv2d or func is functional.linear:
            named.update(zip(('input', 'weight'), args, strict=False))
            index = self._places.get(id(named['weight']))
            if index is not None:
                named['input'], named['weight'] = self._rounded(index, named['input'],
                                                                named['weight'])
            return func(named.pop('input'), named.pop('weight'), *args[2:], **named)
        return func(*args, **named)
