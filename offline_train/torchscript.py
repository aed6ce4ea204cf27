# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TorchScript beside the ONNX, for programs that have torch: same bytes in, same logits out."""
from __future__ import annotations

import copy
import io
from typing import Callable
import warnings

import numpy as np
from offline_train.config import InputConfig
from offline_train.deployed import Deployed
import torch
from torch import nn, Tensor


class HalfNetwork(nn.Module):
    """A copy of a network whose layers compute in half precision; floats in and out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return logits (N, classes, H / stride, W / stride)."""
        logits: Tensor = self.network(image_NCHW.half())
        return logits.float()


def export_torchscript(deployed: Deployed, config: InputConfig,
                       precision: str = 'fp32') -> bytes:
    """
    Return the traced network, frozen: uint8 (1, H, W, 3) in, float logits out.

    In fp16 all of the network is half and the normalisation before it is not: a mean has no exact
    half.
    """
    if precision == 'fp16':
        deployed = Deployed(HalfNetwork(deployed.network), config).eval()
    example = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)  # shapes are constants on purpose
        warnings.simplefilter('ignore', FutureWarning)  # deprecated, and still what is asked for
        traced = torch.jit.trace(deployed, (example,))
        torch.jit.save(torch.jit.freeze(traced), buffer)
    return buffer.getvalue()


def torchscript_runner(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that runs a TorchScript file on the CPU: image in, logits out."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)
        loaded = torch.jit.load(io.BytesIO(content))

    def run(image_NHWC: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits_NCHW: np.ndarray = loaded(torch.from_numpy(image_NHWC)).numpy()
        return logits_NCHW

    return run
