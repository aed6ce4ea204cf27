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
import math
from pathlib import Path
import tempfile
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import cv2
from evit_seg.core.bundle import agreement_key, Bundle, encode_golden, write_bundle
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.labels import LabelMap
from evit_seg.core.manifest import InputSpec, Manifest, Variant
from evit_seg.core.metrics import dataset_scores
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.calibrate import fit_temperature
from offline_train.config import InputConfig, TrainConfig
from offline_train.data.dataset_masks import read_image
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
    parser.add_argument('--torchscript', nargs='*', choices=('fp32', 'fp16'), metavar='PRECISION',
                        help='add TorchScript variants, for programs that have torch: fp32, fp16 '
                             'or both (none named: fp32)')
    parser.add_argument('--also-height', nargs='+', type=int, default=[], metavar='ROWS',
                        help='add the network at smaller inputs, of the same proportions, for the '
                             "node's latency budget")
    parser.add_argument('--description', default='', help='one sentence for the manifest')
    parser.add_argument('--golden', type=_index_or_path, default=0, metavar='INDEX_OR_IMAGE',
                        help='which validation frame becomes the golden one, which the bundle '
                             'holds; an image file instead where those of the data set may not be '
                             'passed on')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
a bundle for the drone:         offline_train export --run runs/a --out bundles/a
for a latency budget:           offline_train export --run runs/a --out bundles/a \\
                                  --also-height 256 192
for an old Jetson (TensorRT 8): offline_train export --run runs/a --out bundles/nano --opset 13 \\
                                  --precision fp16
a bundle is what `seg_node`, `offline_train evaluate` and `offline_train bench` open"""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train export`."""
    bundle = export(RunDir.open(args.run), args.out, checkpoint=args.checkpoint, opset=args.opset,
                    precisions=args.precision, torchscript=_named(args.torchscript),
                    also_heights=args.also_height, description=args.description,
                    golden=args.golden)
    print(f'wrote {bundle.folder}')
    return 0


def _index_or_path(text: str) -> Union[int, Path]:
    return int(text) if text.lstrip('-').isdigit() else Path(text)


def _named(precisions: Optional[Sequence[str]]) -> Sequence[str]:
    """Return the precisions of an option that was not given, given without any, or with some."""
    return () if precisions is None else precisions or ('fp32',)


@dataclass(frozen=True)
class Built:
    """One model file to be: its row of the manifest, its bytes, how near it is to torch."""

    variant: Variant
    content: bytes
    parity: Mapping[str, float]


def export(run: RunDir, out: Optional[Path] = None, *, checkpoint: str = 'latest',
           opset: int = 17, precisions: Sequence[str] = ('fp32',), torchscript: Sequence[str] = (),
           also_heights: Sequence[int] = (), description: str = '',
           golden: Union[int, Path] = 0) -> Bundle:
    """
    Write a run's averaged network as a bundle and return it, opened and verified.

    precisions: of the ONNX variants, fp32 and fp16, in the manifest's order; torchscript: of
    those in TorchScript. also_heights: of smaller inputs of the same network, behind all variants
    of the full one. golden: index of a validation frame, or an image file.
    """
    config = run.config()
    smaller = [smaller_input(config.input, height) for height in also_heights]
    sources = open_sources(config.data)
    split, frames = _frames(sources)
    golden_HWC = _golden_image(golden, frames)
    name = run.path.resolve().name
    out = out or run.path / 'bundle' / name
    if out.exists() and any(out.iterdir()):
        raise BundleError(f'{out} exists and is not empty: choose another name with --out')
    with plain_attention():
        network = load_network(run, len(sources.label_map), checkpoint)
    deployed = Deployed(network, config.input).eval()

    built: List[Built] = []
    for seen, name in ((config.input, 'model'), *((s, f'model_{s.height}') for s in smaller)):
        at_size = Deployed(network, seen).eval()
        inputs = network_inputs(frames, seen)
        built += _build_onnx(at_size, seen, opset, inputs, precisions, name)
        built += [_build_torchscript(at_size, seen, inputs, name, precision)
                  for precision in dict.fromkeys(torchscript)]
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
                    **{_parity_key(b.variant, config.input): dict(b.parity) for b in built}},
        scores=scores)
    size = (config.input.width, config.input.height)
    image = cv2.resize(golden_HWC, size, interpolation=cv2.INTER_LINEAR)
    return _write(out, manifest, built, image)


def _golden_image(golden: Union[int, Path], frames: Frames) -> np.ndarray:
    """Return the RGB image (H, W, 3) the bundle is to hold."""
    if isinstance(golden, Path):
        return cv2.cvtColor(read_image(golden), cv2.COLOR_BGR2RGB)
    if not 0 <= golden < len(frames):
        raise ConfigError(f'--golden: expected 0 to {len(frames) - 1} or an image file, got '
                          f'{golden!r}')
    return frames.read(golden)[0]


def _frames(sources: Sources) -> Tuple[str, Frames]:
    """Return what to calibrate and score on with its split's name, '' for images without masks."""
    for split, frames in (('validation', sources.validation), ('train', sources.train),
                          ('', sources.unlabeled)):
        if frames:
            return split, frames
    raise ConfigError('data: expected frames to check the export with, the run names none')


def smaller_input(full: InputConfig, height: int) -> InputConfig:
    """Return an input of `height` rows and as nearly the same proportions as 32 columns allow."""
    if height % 32 or not 32 <= height < full.height:
        raise ConfigError(f'--also-height: expected multiples of 32 below {full.height}, the '
                          f"run's own, got {height!r}")
    width = 32 * max(1, round(full.width * height / full.height / 32))
    return replace(full, height=height, width=width)


def _build_onnx(deployed: Deployed, config: InputConfig, opset: int, inputs: Sequence[np.ndarray],
                precisions: Sequence[str], name: str) -> List[Built]:
    """Return the ONNX variants, each compared with torch; all come from the fp32 graph."""
    contents = {'fp32': export_onnx(deployed, config, opset)}
    measured: Dict[str, Dict[str, float]] = {}
    if 'fp16' in precisions:
        half = fit_half(contents['fp32'], inputs)
        contents['fp16'] = half.content
        measured['fp16'] = {'largest_value': half.largest, 'single_nodes': len(half.single)}
    row = Variant(f'{name}.onnx', '', 0, 'onnxruntime', 'fp32', config.height, config.width,
                  stride_of(deployed.network), opset=opset, ir_version=ir_version(opset))
    built = {}
    for precision, content in contents.items():
        file = row.file if precision == 'fp32' else f'{name}_{precision}.onnx'
        parity = {**check_parity(file, onnx_runner(content), deployed, inputs, precision),
                  **measured.get(precision, {})}
        built[precision] = Built(replace(row, file=file, precision=precision), content, parity)
    return [built[precision] for precision in dict.fromkeys(precisions)]


def _build_torchscript(deployed: Deployed, config: InputConfig,
                       inputs: Sequence[np.ndarray], name: str, precision: str) -> Built:
    content = export_torchscript(deployed, config, precision)
    file = f'{name}.ts' if precision == 'fp32' else f'{name}_{precision}.ts'
    row = Variant(file, '', 0, 'torchscript', precision, config.height, config.width,
                  stride_of(deployed.network))
    return Built(row, content, check_parity(row.file, torchscript_runner(content), deployed,
                                            inputs, precision))


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


def _parity_key(variant: Variant, full: InputConfig) -> str:
    """Return where the provenance holds a variant's parity; the plain one's has no suffix."""
    suffixes = [str(text) for text, plain in (
        (variant.engine, 'onnxruntime'), (variant.precision, 'fp32'),
        (variant.height, full.height)) if text != plain]
    return '_'.join(['parity_with_torch', *suffixes])


def _write(out: Path, manifest: Manifest, built: Sequence[Built], image: np.ndarray) -> Bundle:
    """Write the bundle with the golden mask that the Segmenter gives for a draft of it."""
    files = {b.variant.file: b.content for b in built}
    with tempfile.TemporaryDirectory() as scratch:
        draft = write_bundle(Path(scratch) / out.name, manifest, files)
        masks = {(v.precision, v.height): _mask(draft, v, image) for v in manifest.variants
                 if v.engine == 'onnxruntime'}
    height = manifest.variants[0].height
    golden_mask = masks.get(('fp32', height), next(iter(masks.values())))
    shares = dict(MIN_AGREEMENT)
    for (precision, rows), mask in masks.items():
        agreement = float(np.mean(mask == golden_mask))
        if rows != height:
            print(f'{agreement:.4f} of the golden mask agrees at {rows} rows in {precision}')
            shares[agreement_key(precision, rows)] = _share_allowed(agreement, precision)
        elif agreement < MIN_AGREEMENT[precision]:
            raise BundleError(f'export: {agreement:.4f} of the golden mask agrees in {precision}, '
                              f'at least {MIN_AGREEMENT[precision]} is needed; take another '
                              'frame with --golden, or leave this precision out')
    golden, pictures = encode_golden(image, golden_mask, shares)
    return write_bundle(out, replace(manifest, golden=golden), {**files, **pictures})


def _share_allowed(agreement: float, precision: str) -> float:
    """Return what a smaller input's mask must agree to, with the same margin as the full one's."""
    return max(0.0, math.floor((agreement - 1 + MIN_AGREEMENT[precision]) * 1e4) / 1e4)


def _mask(draft: Bundle, variant: Variant, image: np.ndarray) -> np.ndarray:
    segmenter = Segmenter.open(str(draft.folder), precision=variant.precision,
                               height=variant.height)
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
