# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Turn a run folder into a bundle: ONNX with the normalisation inside, checked against torch.

The graph takes the camera's bytes (uint8, NHWC, RGB) and answers with logits at the network's
stride. Export fails when a variant's classes agree with torch's on too few cells (99.9 % in fp32,
see deployed.py), before anything is written.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
import tempfile
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
from evit_seg.core.bundle import Bundle, encode_golden, write_bundle
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.labels import LabelMap
from evit_seg.core.manifest import InputSpec, Manifest, Variant
from evit_seg.core.metrics import dataset_scores
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.calibrate import fit_temperature
from offline_train.config import InputConfig, TrainConfig
from offline_train.data.folder import Frames
from offline_train.data.sources import open_sources, Sources
from offline_train.deployed import (
    check_parity,
    Deployed,
    export_onnx,
    ir_version,
    MIN_AGREEMENT,
    onnx_runner,
    plain_attention,
)
from offline_train.half import fit_half
from offline_train.models import stride_of
from offline_train.models.zoo import describe
from offline_train.run_dir import provenance, RunDir
from offline_train.run_network import load_network
from offline_train.torchscript import export_torchscript, torchscript_runner
from offline_train.train import score_model
from torch import nn

PARITY_FRAMES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train export`."""
    parser.add_argument('--run', type=Path, required=True, help='run folder')
    parser.add_argument('--out', type=Path,
                        help="new bundle folder, its name is the bundle's "
                             "(default: RUN/bundle/<the run's name>)")
    parser.add_argument('--checkpoint', default='latest', metavar='STEP',
                        help='latest, or the step of a checkpoint')
    parser.add_argument('--opset', type=int, default=17,
                        help='ONNX opset, 13 to 18; 13 for JetPack 4.6 (default: %(default)s)')
    parser.add_argument('--precision', nargs='+', choices=('fp32', 'fp16'), default=['fp32'],
                        help='variants of the bundle; the first is what is opened unless another '
                             'is asked for (default: fp32)')
    parser.add_argument('--torchscript', action='store_true',
                        help='add a TorchScript variant, for programs that have torch')
    parser.add_argument('--description', default='', help='one sentence for the manifest')
    parser.add_argument('--golden', type=int, default=0, metavar='INDEX',
                        help='which validation frame becomes the golden one')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
a bundle for the drone:         offline_train export --run runs/a --out bundles/a
for an old Jetson (TensorRT 8): offline_train export --run runs/a --out bundles/nano --opset 13 \\
                                  --precision fp16
a bundle is what `seg_node`, `offline_train evaluate` and `offline_train bench` open"""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train export`."""
    bundle = export(RunDir.open(args.run), args.out, checkpoint=args.checkpoint, opset=args.opset,
                    precisions=args.precision, torchscript=args.torchscript,
                    description=args.description, golden=args.golden)
    print(f'wrote {bundle.folder}')
    return 0


@dataclass(frozen=True)
class Built:
    """One model file to be: its row of the manifest, its bytes, how near it is to torch."""

    variant: Variant
    content: bytes
    parity: Mapping[str, float]


def export(run: RunDir, out: Optional[Path] = None, *, checkpoint: str = 'latest',
           opset: int = 17, precisions: Sequence[str] = ('fp32',), torchscript: bool = False,
           description: str = '', golden: int = 0) -> Bundle:
    """
    Write a run's averaged network as a bundle and return it, opened and verified.

    precisions: of the ONNX variants, fp32 and fp16, in the manifest's order.
    """
    config = run.config()
    sources = open_sources(config.data)
    split, frames = _frames(sources)
    if not 0 <= golden < len(frames):
        raise ConfigError(f'--golden: expected 0 to {len(frames) - 1}, got {golden!r}')
    name = run.path.resolve().name
    out = out or run.path / 'bundle' / name
    if out.exists() and any(out.iterdir()):
        raise BundleError(f'{out} exists and is not empty: choose another name with --out')
    with plain_attention():
        network = load_network(run, len(sources.label_map), checkpoint)
    deployed = Deployed(network, config.input).eval()

    inputs = network_inputs(frames, config.input)
    built = _build_onnx(deployed, config.input, opset, inputs, precisions)
    if torchscript:
        built.append(_build_torchscript(deployed, config.input, inputs))
    temperature, scores = 1.0, {}
    if split:
        temperature = fit_temperature(deployed, frames, config.input, stride_of(network))
        scores = {split: _scores(network, frames, sources.label_map, config, split)}
    print(f'temperature {temperature:.3f}')
    manifest = Manifest(
        name=out.name, label_map=sources.label_map, input=InputSpec(), temperature=temperature,
        description=description, data=(sources.entry,),
        normalise={'mean': list(config.input.mean), 'std': list(config.input.std),
                   'where': 'graph'},
        variants=tuple(b.variant for b in built),
        provenance={**provenance(), 'trained': run.provenance(), 'step': run.step_of(checkpoint),
                    **_size(network, config.input),
                    **{_parity_key(b.variant): dict(b.parity) for b in built}},
        scores=scores)
    size = (config.input.width, config.input.height)
    image = cv2.resize(frames.read(golden)[0], size, interpolation=cv2.INTER_LINEAR)
    return _write(out, manifest, built, image)


def _frames(sources: Sources) -> Tuple[str, Frames]:
    """Return what to calibrate and score on with its split's name, '' for images without masks."""
    for split, frames in (('validation', sources.validation), ('train', sources.train),
                          ('', sources.unlabeled)):
        if frames:
            return split, frames
    raise ConfigError('data: expected frames to check the export with, the run names none')


def _build_onnx(deployed: Deployed, config: InputConfig, opset: int,
                inputs: Sequence[np.ndarray], precisions: Sequence[str]) -> List[Built]:
    """Return the ONNX variants, each compared with torch; all come from the fp32 graph."""
    contents = {'fp32': export_onnx(deployed, config, opset)}
    measured: Dict[str, Dict[str, float]] = {}
    if 'fp16' in precisions:
        half = fit_half(contents['fp32'], inputs)
        contents['fp16'] = half.content
        measured['fp16'] = {'largest_value': half.largest, 'single_nodes': len(half.single)}
    row = Variant('model.onnx', '', 0, 'onnxruntime', 'fp32', config.height, config.width,
                  stride_of(deployed.network), opset=opset, ir_version=ir_version(opset))
    built = {}
    for precision, content in contents.items():
        file = row.file if precision == 'fp32' else f'model_{precision}.onnx'
        parity = {**check_parity(file, onnx_runner(content), deployed, inputs, precision),
                  **measured.get(precision, {})}
        built[precision] = Built(replace(row, file=file, precision=precision), content, parity)
    return [built[precision] for precision in dict.fromkeys(precisions)]


def _build_torchscript(deployed: Deployed, config: InputConfig,
                       inputs: Sequence[np.ndarray]) -> Built:
    content = export_torchscript(deployed, config)
    row = Variant('model.ts', '', 0, 'torchscript', 'fp32', config.height, config.width,
                  stride_of(deployed.network))
    return Built(row, content, check_parity(row.file, torchscript_runner(content), deployed,
                                            inputs))


def network_inputs(frames: Frames, config: InputConfig,
                   count: int = PARITY_FRAMES) -> List[np.ndarray]:
    """Return up to `count` frames, spread over all, resized as they are when deployed."""
    indices = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    size = (config.width, config.height)
    return [cv2.resize(frames.read(int(i))[0], size, interpolation=cv2.INTER_LINEAR)
            for i in indices]


def _size(network: nn.Module, config: InputConfig) -> Dict[str, Any]:
    """Return parameters and multiply-adds, in billions, at the deployed size."""
    described = describe(network, (config.height, config.width))
    return {'parameters': described.parameters, 'gmacs': round(described.gflops / 2, 4)}


def _parity_key(variant: Variant) -> str:
    """Return where the provenance holds a variant's parity; the plain one's has no suffix."""
    suffixes = [text for text, plain in ((variant.engine, 'onnxruntime'),
                                         (variant.precision, 'fp32')) if text != plain]
    return '_'.join(['parity_with_torch', *suffixes])


def _write(out: Path, manifest: Manifest, built: Sequence[Built], image: np.ndarray) -> Bundle:
    """Write the bundle with the golden mask that the Segmenter gives for a draft of it."""
    files = {b.variant.file: b.content for b in built}
    with tempfile.TemporaryDirectory() as scratch:
        draft = write_bundle(Path(scratch) / out.name, manifest, files)
        masks = {v.precision: _mask(draft, v.precision, image) for v in manifest.variants
                 if v.engine == 'onnxruntime'}
    golden_mask = masks.get('fp32', next(iter(masks.values())))
    for precision, mask in masks.items():
        agreement = float(np.mean(mask == golden_mask))
        if agreement < MIN_AGREEMENT[precision]:
            raise BundleError(f'export: {agreement:.4f} of the golden mask agrees in {precision}, '
                              f'at least {MIN_AGREEMENT[precision]} is needed; take another '
                              'frame with --golden, or leave this precision out')
    golden, pictures = encode_golden(image, golden_mask, MIN_AGREEMENT)
    return write_bundle(out, replace(manifest, golden=golden), {**files, **pictures})


def _mask(draft: Bundle, precision: str, image: np.ndarray) -> np.ndarray:
    segmenter = Segmenter.open(str(draft.folder), precision=precision)
    mask_HW = segmenter(image, 'rgb').mask_HW
    segmenter.close()
    return mask_HW


def _scores(network: nn.Module, frames: Frames, label_map: LabelMap, config: TrainConfig,
            split: str) -> Dict[str, Any]:
    scores = dataset_scores(score_model(network, frames, len(label_map), config.input))
    return {'data': config.data.name, 'split': split, 'frames': len(frames),
            'size': [config.input.height, config.input.width], 'miou': _rounded(scores['miou']),
            'iou': {slug: _rounded(value) for slug, value
                    in zip(label_map.slugs, scores['iou'], strict=True)}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
