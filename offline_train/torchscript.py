# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TorchScript beside the ONNX, for programs that have torch: same bytes in, same logits out."""
from __future__ import annotations

import io
from typing import Callable
import warnings

import numpy as np
from offline_train.config import InputConfig
from offline_train.deployed import Deployed
import torch


def export_torchscript(deployed: Deployed, config: InputConfig) -> bytes:
    """Return the traced network, frozen: uint8 (1, H, W, 3) in, float logits out."""
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
