# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Teachers: a run folder, a bundle, or any ONNX file with its own input.

A teacher answers RGB bytes with logits of the student's classes. Only a run folder also shows its
feature maps: its network is at hand.
"""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol, Sequence, Tuple

import cv2
from evit_seg.core.bundle import open_bundle
from evit_seg.core.engine import Engine, load_engine
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import LabelMap
import numpy as np
from offline_train.config import InputConfig, TeacherConfig
from offline_train.data.sources import label_map_of
from offline_train.models import stride_of
from offline_train.run_dir import RunDir
from offline_train.run_network import load_network
import onnxruntime
import torch
from torch import nn, Tensor


class Teacher(Protocol):
    """What distillation needs of a teacher."""

    def logits(self, image_NHWC: Tensor) -> Tensor:
        """Answer uint8 RGB (N, H, W, 3) with float32 (N, classes, h, w) on its device."""


def open_teacher(config: TeacherConfig, label_map: LabelMap, device: torch.device,
                 precision: str) -> Teacher:
    """
    Return the teacher a configuration names.

    ConfigError if its classes are not the student's, InputError if it cannot be read.
    """
    path = Path(config.path)
    if (path / 'config.yaml').is_file():
        return NetworkTeacher(RunDir.open(path), label_map, device, precision)
    if (path / 'manifest.yaml').is_file():
        return BundleTeacher(path, label_map, device)
    if path.suffix == '.onnx' and path.is_file():
        return OnnxTeacher(path, config, len(label_map), device)
    raise InputError(f'teacher.path: expected a run folder, a bundle folder or an ONNX file, '
                     f'got {config.path!r}')


def teacher_sha256(config: TeacherConfig) -> str:
    """Return the SHA-256 of the file that holds what the teacher knows."""
    path = Path(config.path)
    if (path / 'config.yaml').is_file():
        path = RunDir.open(path).find_checkpoint()
    elif (path / 'manifest.yaml').is_file():
        path = path / 'manifest.yaml'  # it holds the hashes of the bundle's files
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class NetworkTeacher:
    """The averaged network of a run folder, in torch."""

    def __init__(self, run: RunDir, label_map: LabelMap, device: torch.device,
                 precision: str) -> None:
        config, theirs = run.config(), label_map_of(run.config().data)
        _check_classes(str(run.path), theirs, label_map)
        network = load_network(run, len(theirs)).requires_grad_(False)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.stride = stride_of(network)
        self._input = config.input
        self._bf16 = precision == 'bf16'

    @torch.no_grad()
    def logits(self, image_NHWC: Tensor) -> Tensor:
        """Map uint8 RGB (N, H, W, 3) to float32 logits at the network's stride."""
        with torch.autocast(image_NHWC.device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self.network(normalise(image_NHWC, self._input))
        return logits.float()


class BundleTeacher:
    """The network of a bundle, in its own engine; images are stretched to its input."""

    def __init__(self, folder: Path, label_map: LabelMap, device: torch.device) -> None:
        bundle = open_bundle(folder)
        _check_classes(str(folder), bundle.manifest.label_map, label_map)
        if bundle.manifest.input.resize != 'stretch':
            raise ConfigError(f'{folder}: expected a bundle whose input is stretched, got '
                              f'{bundle.manifest.input.resize!r}')
        self._engine: Engine = load_engine(bundle)
        self._flip = bundle.manifest.input.colour == 'bgr'
        self._device = device

    def logits(self, image_NHWC: Tensor) -> Tensor:
        """Map uint8 RGB (N, H, W, 3) to float32 logits on the bundle's grid."""
        height, width = self._engine.input_hw
        rows = []
        for image in image_NHWC.cpu().numpy():
            seen = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            seen = seen[..., ::-1] if self._flip else seen
            rows.append(self._engine.infer(np.ascontiguousarray(seen)))
        return torch.from_numpy(np.stack(rows)).to(self._device)


class OnnxTeacher:
    """Any ONNX file with one image input and logits as its first output."""

    def __init__(self, path: Path, config: TeacherConfig, classes: int,
                 device: torch.device) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=['CPUExecutionProvider'])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise InputError(f'{path}: expected a readable ONNX file: {error}') from error
        inputs = self._session.get_inputs()
        self._planar = config.layout == 'nchw'
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1 if self._planar else 3] != 3:
            raise ConfigError(f'{path}: expected one image input laid out {config.layout}, got '
                              f'{[(i.name, i.shape) for i in inputs]}; see teacher.layout')
        self._input, self._size = inputs[0], _fixed_size(shape, self._planar)
        self._flip = config.colour == 'bgr'
        self._mean = np.asarray(config.mean, np.float32)
        self._std = np.asarray(config.std, np.float32)
        self._device = device
        answer = self.logits(torch.zeros(1, *(self._size or (256, 256)), 3, dtype=torch.uint8))
        if answer.ndim != 4 or answer.shape[1] != classes:
            raise ConfigError(f'{path}: expected logits (1, {classes}, h, w), '
                              f'got {tuple(answer.shape)}')

    def logits(self, image_NHWC: Tensor) -> Tensor:
        """Map uint8 RGB (N, H, W, 3) to the file's logits, float32."""
        rows = [self._answer(image) for image in image_NHWC.cpu().numpy()]
        return torch.from_numpy(np.concatenate(rows)).float().to(self._device)

    def _answer(self, image_HWC: np.ndarray) -> np.ndarray:
        if self._size is not None:
            image_HWC = cv2.resize(image_HWC, self._size[::-1], interpolation=cv2.INTER_LINEAR)
        if self._flip:
            image_HWC = image_HWC[..., ::-1]
        if self._input.type == 'tensor(uint8)':  # normalised in the graph
            fed = image_HWC[None]
        else:
            fed = ((image_HWC.astype(np.float32) - self._mean) / self._std)[None]
            fed = fed.astype(np.float16) if self._input.type == 'tensor(float16)' else fed
        if self._planar:
            fed = fed.transpose(0, 3, 1, 2)
        answer: np.ndarray = self._session.run(
            None, {self._input.name: np.ascontiguousarray(fed)})[0]
        return answer


def normalise(image_NHWC: Tensor, config: InputConfig) -> Tensor:
    """Map uint8 (N, H, W, 3) to float (N, 3, H, W), zero mean and unit variance, channels last."""
    mean = torch.tensor(config.mean, device=image_NHWC.device)
    std = torch.tensor(config.std, device=image_NHWC.device)
    return ((image_NHWC.float() - mean) / std).permute(0, 3, 1, 2)


def feature_network(teacher: Teacher) -> nn.Module:
    """Return the teacher's network; ConfigError where only its answers can be had."""
    if not isinstance(teacher, NetworkTeacher):
        raise ConfigError('distil.mimic and distil.generation: expected a run folder as the '
                          'teacher, a bundle or an ONNX file shows no feature maps')
    return teacher.network


def _fixed_size(shape: Sequence[Any], planar: bool) -> Tuple[int, int] | None:
    """Return (height, width) of a fixed input, None for one that takes any size."""
    height, width = shape[2:] if planar else shape[1:3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _check_classes(where: str, theirs: LabelMap, ours: LabelMap) -> None:
    if theirs.slugs != ours.slugs:
        raise ConfigError(f"{where}: expected a teacher of the student's classes {ours.slugs}, "
                          f'got {theirs.slugs}')
