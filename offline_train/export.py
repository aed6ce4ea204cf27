# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Turn a run folder into a bundle: ONNX with the normalisation inside, checked against torch.

The graph takes the camera's bytes (uint8, NHWC, RGB) and answers with logits at the network's
stride. Export fails when ONNX Runtime's classes agree with torch's on less than 99.9 % of the
cells, before anything is written.
"""
from __future__ import annotations

import argparse
from dataclasses import replace
import io
from pathlib import Path
import tempfile
from typing import Any, Dict, List, Sequence
import warnings

import cv2
from evit_seg.core.bundle import Bundle, encode_golden, write_bundle
from evit_seg.core.errors import BundleError
from evit_seg.core.labels import LabelMap
from evit_seg.core.manifest import InputSpec, Manifest, Variant
from evit_seg.core.metrics import dataset_scores
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.calibrate import fit_temperature
from offline_train.config import InputConfig, TrainConfig
from offline_train.data.folder import Frames
from offline_train.data.sources import open_sources
from offline_train.models import build_model, stride_of
from offline_train.run_dir import provenance, RunDir
from offline_train.train import score_model
import onnx
import onnxruntime
import torch
from torch import nn, Tensor

MIN_AGREEMENT = 0.999
"""Smallest share of grid cells where ONNX Runtime and torch must name the same class, fp32."""
MIN_GOLDEN_AGREEMENT = {'fp32': 0.999, 'fp16': 0.995, 'int8': 0.98}
MODEL_FILE = 'model.onnx'
PARITY_FRAMES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train export`."""
    parser.add_argument('--run', type=Path, required=True, help='run folder')
    parser.add_argument('--out', type=Path, required=True,
                        help="new bundle folder; its name is the bundle's")
    parser.add_argument('--checkpoint', default='latest', metavar='STEP',
                        help='latest, or the step of a checkpoint')
    parser.add_argument('--opset', type=int, default=17,
                        help='ONNX opset, 13 for JetPack 4.6 (default: %(default)s)')
    parser.add_argument('--description', default='', help='one sentence for the manifest')
    parser.add_argument('--golden', type=int, default=0, metavar='INDEX',
                        help='which validation frame becomes the golden one')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train export`."""
    export(RunDir.open(args.run), args.out, checkpoint=args.checkpoint, opset=args.opset,
           description=args.description, golden=args.golden)
    return 0


class Deployed(nn.Module):
    """
    A network with its normalisation in front: uint8 (1, H, W, 3) in, float logits out.

    Cast, subtract, multiply: folding the mean into a zero-padded convolution would be wrong at
    the borders.
    """

    def __init__(self, network: nn.Module, config: InputConfig) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.network = network
        self.register_buffer('mean', torch.tensor(config.mean))
        self.register_buffer('scale', 1.0 / torch.tensor(config.std))

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """Return logits (1, classes, H / stride, W / stride)."""
        normalised = (image_NHWC.float() - self.mean) * self.scale
        logits: Tensor = self.network(normalised.permute(0, 3, 1, 2))
        return logits


def export(run: RunDir, out: Path, *, checkpoint: str = 'latest', opset: int = 17,
           description: str = '', golden: int = 0) -> Bundle:
    """Write a run's averaged network as a bundle and return it, opened and verified."""
    config = run.config()
    sources = open_sources(config.data)
    label_map = sources.label_map
    frames = sources.validation or sources.train or sources.unlabeled
    assert frames is not None
    saved = run.load_checkpoint(checkpoint)
    network = build_model(config.model, len(label_map), config.input)
    network.load_state_dict(saved.part('ema'))
    deployed = Deployed(network, config.input).eval()

    model = export_onnx(deployed, config.input, opset)
    parity = check_parity(model, deployed, network_inputs(frames, config.input, PARITY_FRAMES))
    print(f'parity with torch: largest difference {parity["max_difference"]:.2e}, '
          f'{parity["agreement"]:.4%} of the cells agree')
    temperature = fit_temperature(deployed, frames, config.input, stride_of(network))
    print(f'temperature {temperature:.3f}')
    manifest = Manifest(
        name=out.name, label_map=label_map, input=InputSpec(), temperature=temperature,
        description=description, data=(sources.entry,),
        normalise={'mean': list(config.input.mean), 'std': list(config.input.std),
                   'where': 'graph'},
        variants=(Variant(MODEL_FILE, '', 0, 'onnxruntime', 'fp32', config.input.height,
                          config.input.width, stride_of(network), opset=opset,
                          ir_version=onnx.load_from_string(model).ir_version),),
        provenance={**provenance(), 'trained': run.provenance(), 'step': saved.step,
                    'parameters': sum(p.numel() for p in network.parameters()),
                    'parity_with_torch': parity},
        scores={'validation': _validation_scores(network, frames, label_map, config)})
    size = (config.input.width, config.input.height)
    image = cv2.resize(frames.read(golden)[0], size, interpolation=cv2.INTER_LINEAR)
    return _write(out, manifest, model, image)


def export_onnx(deployed: Deployed, config: InputConfig, opset: int) -> bytes:
    """Return the ONNX of a deployed network: static shapes, input `image`, output `logits`."""
    example = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # shapes read while tracing are constants on purpose
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.export(deployed, (example,), buffer,  # type: ignore[arg-type]
                          input_names=['image'], output_names=['logits'], opset_version=opset,
                          dynamo=False)
    model = onnx.load_from_string(buffer.getvalue())
    # The newest IR any supported ONNX Runtime reads: 1.11, the last of JetPack 4.6, takes 7.
    model.ir_version = 7 if opset <= 13 else 8
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def check_parity(model: bytes, deployed: Deployed,
                 inputs: Sequence[np.ndarray]) -> Dict[str, float]:
    """
    Compare ONNX Runtime with torch; BundleError below MIN_AGREEMENT of equal classes.

    inputs: uint8 RGB (H, W, 3) at the network's size.
    """
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    equal, cells, largest = 0, 0, 0.0
    for image in inputs:
        with torch.no_grad():
            wanted = deployed(torch.from_numpy(image)[None]).numpy()
        got = session.run(None, {'image': image[None]})[0]
        largest = max(largest, float(np.abs(got - wanted).max()))
        same = got.argmax(1) == wanted.argmax(1)
        equal, cells = equal + int(same.sum()), cells + same.size
    agreement = equal / cells
    if agreement < MIN_AGREEMENT:
        raise BundleError(f'export: ONNX Runtime and torch agree on {agreement:.4f} of the cells, '
                          f'at least {MIN_AGREEMENT} is needed (largest difference of the logits '
                          f'{largest:.3g}); try another --opset')
    return {'agreement': round(agreement, 6), 'max_difference': float(f'{largest:.3g}'),
            'frames': len(inputs)}


def network_inputs(frames: Frames, config: InputConfig, count: int) -> List[np.ndarray]:
    """Return up to `count` frames, spread over all, resized as they are when deployed."""
    indices = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    size = (config.width, config.height)
    return [cv2.resize(frames.read(int(i))[0], size, interpolation=cv2.INTER_LINEAR)
            for i in indices]


def _write(out: Path, manifest: Manifest, model: bytes, image: np.ndarray) -> Bundle:
    """Write the bundle with the golden mask that the Segmenter gives for a draft of it."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = write_bundle(Path(scratch) / out.name, manifest, {MODEL_FILE: model})
        segmenter = Segmenter.open(str(draft.folder))
        mask = segmenter(image, 'rgb').mask_HW
        segmenter.close()
    golden, files = encode_golden(image, mask, MIN_GOLDEN_AGREEMENT)
    return write_bundle(out, replace(manifest, golden=golden), {MODEL_FILE: model, **files})


def _validation_scores(network: nn.Module, frames: Frames, label_map: LabelMap,
                       config: TrainConfig) -> Dict[str, Any]:
    scores = dataset_scores(score_model(network, frames, len(label_map), config.input))
    return {'data': config.data.name, 'split': 'validation', 'frames': len(frames),
            'size': [config.input.height, config.input.width], 'miou': _rounded(scores['miou']),
            'iou': {slug: _rounded(value) for slug, value
                    in zip(label_map.slugs, scores['iou'], strict=True)}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
