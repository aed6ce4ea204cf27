# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Add an int8 variant to a bundle: calibrated on its run's frames, checked against torch."""
from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import tempfile
from typing import Any, Dict, Optional, Sequence, Tuple

from evit_seg.core.bundle import (
    Bundle,
    find_bundle,
    open_bundle,
    read_golden,
    select_variant,
    write_bundle,
)
from evit_seg.core.errors import BundleError, ConfigError
from evit_seg.core.manifest import Golden, Variant
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.compression.int8 import calibrate, CALIBRATIONS, prepare
from offline_train.compression.quantizers import tensor_rows, write_report
from offline_train.compression.sensitivity import Mixed, quantize_mixed
from offline_train.data.folder import Frames
from offline_train.data.sources import open_sources, Sources
from offline_train.deployed import (
    check_parity,
    Deployed,
    ir_version,
    MIN_AGREEMENT,
    onnx_runner,
    plain_attention,
)
from offline_train.export import network_inputs
from offline_train.run_dir import provenance, RunDir
from offline_train.run_network import load_network

FILE = 'model_int8.onnx'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train quantize`."""
    parser.add_argument('--bundle', required=True, help='bundle folder or name under models/')
    parser.add_argument('--run', type=Path, required=True,
                        help='run folder the bundle was exported from: its network and frames')
    parser.add_argument('--out', type=Path, required=True,
                        help="new bundle folder, its name is the bundle's")
    parser.add_argument('--calibration', choices=CALIBRATIONS, default=CALIBRATIONS[0],
                        help='how ranges of activations are chosen (default: %(default)s)')
    parser.add_argument('--percentile', type=float, default=99.99, metavar='P',
                        help='share of the values inside the range, per cent '
                             '(default: %(default)s)')
    parser.add_argument('--frames', type=int, default=64, metavar='N',
                        help='frames to calibrate on, spread over all (default: %(default)s)')
    parser.add_argument('--scan-frames', type=int, default=8, metavar='N',
                        help='frames to compare nodes and graphs on (default: %(default)s)')
    parser.add_argument('--min-agreement', type=float, default=0.98, metavar='SHARE',
                        help='share of the cells of a class that must keep it, mean over '
                             'classes; below it sensitive nodes stay in float '
                             '(default: %(default)s)')
    parser.add_argument('--max-float', type=int, default=8, metavar='N',
                        help='so many nodes may stay in float, beside --keep-float '
                             '(default: %(default)s)')
    parser.add_argument('--keep-float', nargs='+', default=[], metavar='NODE',
                        help='names of nodes to leave in float, as the scan prints them')
    parser.add_argument('--reduce-range', action='store_true',
                        help='weights of 7 bits: for x86 processors without VNNI, whose sums '
                             'saturate with 8')
    parser.add_argument('--first', action='store_true',
                        help='put int8 before the other variants: it is opened unless another '
                             'is asked for')
    parser.add_argument('--report', type=Path, metavar='PREFIX',
                        help='write scale and zero point of every tensor as PREFIX.json and .md')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """\
  offline_train quantize --bundle bundles/a --run runs/a --out bundles/a_int8
  offline_train evaluate --bundle bundles/a_int8 --precision int8 --against bundles/a --strict ...
int8 is for CPUs (VNNI, or ARM with dot products); a GPU takes fp16."""


def main(args: argparse.Namespace) -> int:
    """Run `offline_train quantize`."""
    bundle = quantize_bundle(
        open_bundle(find_bundle(args.bundle)), RunDir.open(args.run), args.out,
        calibration=args.calibration, percentile=args.percentile, frames=args.frames,
        scan_frames=args.scan_frames, min_agreement=args.min_agreement,
        max_float=args.max_float, keep_float=args.keep_float, reduce_range=args.reduce_range,
        first=args.first, report=args.report)
    print(f'wrote {bundle.folder}')
    return 0


def quantize_bundle(source: Bundle, run: RunDir, out: Path, *, calibration: str = CALIBRATIONS[0],
                    percentile: float = 99.99, frames: int = 64, scan_frames: int = 8,
                    min_agreement: float = 0.98, max_float: int = 8,
                    keep_float: Sequence[str] = (), reduce_range: bool = False,
                    first: bool = False, report: Optional[Path] = None) -> Bundle:
    """
    Write a bundle with the variants of `source` and an int8 one; return it, opened and verified.

    The fp32 ONNX variant is what is quantized; torch's fp32 network is what it is compared with.
    """
    _check(source, out, frames, scan_frames, min_agreement, max_float)
    plain = select_variant(source, precision='fp32')
    config = run.config()
    if plain.input_hw != (config.input.height, config.input.width):
        raise ConfigError(f'--run: expected the run of the bundle, whose input is '
                          f'{plain.height}x{plain.width}, got one of {config.input.height}x'
                          f'{config.input.width}')
    sources = open_sources(config.data)
    with plain_attention():
        network = load_network(run, len(sources.label_map),
                               str(source.manifest.provenance.get('step', 'latest')))
    deployed = Deployed(network, config.input).eval()
    seen, unseen = _frames(sources)

    prepared = prepare((source.folder / plain.file).read_bytes())
    ranges = calibrate(prepared, network_inputs(seen, config.input, frames), calibration,
                       percentile)
    compared = network_inputs(seen, config.input, scan_frames)
    mixed = quantize_mixed(prepared, ranges, compared, min_agreement=min_agreement,
                           max_float=max_float, keep_float=keep_float, reduce_range=reduce_range)
    parity = check_parity(FILE, onnx_runner(mixed.content), deployed,
                          network_inputs(unseen, config.input), 'int8')
    if report is not None:
        write_report(tensor_rows(mixed.content, prepared, compared[:2]), report)
    facts = {'calibration': calibration, 'frames': min(frames, len(seen)),
             'weights_bits': 7 if reduce_range else 8, 'float_nodes': list(mixed.kept_float),
             'class_agreement': round(mixed.agreement, 4)}
    if calibration == 'percentile':
        facts['percentile'] = percentile
    return _write(source, out, plain, mixed, {'parity_with_torch_int8': parity, 'int8': facts},
                  first)


def _check(source: Bundle, out: Path, frames: int, scan_frames: int, min_agreement: float,
           max_float: int) -> None:
    """Raise for what cannot end well, before minutes are spent."""
    held = [v.precision for v in source.manifest.variants]
    if 'int8' in held:
        raise ConfigError(f'--bundle: expected a bundle without an int8 variant, '
                          f'{source.folder} holds {", ".join(held)}; take the one it was made of')
    if source.manifest.golden is None:
        raise BundleError(f'{source.folder} has no golden frame to check int8 on; export it again')
    if out.exists() and any(out.iterdir()):
        raise BundleError(f'{out} exists and is not empty: choose another name with --out')
    for option, value in (('--frames', frames), ('--scan-frames', scan_frames)):
        if value < 1:
            raise ConfigError(f'{option}: expected 1 or more, got {value!r}')
    if max_float < 0:
        raise ConfigError(f'--max-float: expected 0 or more, got {max_float!r}')
    if not 0 <= min_agreement <= 1:
        raise ConfigError(f'--min-agreement: expected 0 to 1, got {min_agreement!r}')


def _frames(sources: Sources) -> Tuple[Frames, Frames]:
    """Return what to calibrate on and what to compare with torch on, which it has not seen."""
    seen = sources.train or sources.unlabeled
    if not seen:
        raise ConfigError('data: expected frames to calibrate on, the run names none')
    return seen, sources.validation or seen


def _write(source: Bundle, out: Path, plain: Variant, mixed: Mixed, made: Dict[str, Any],
           first: bool) -> Bundle:
    """Write the new bundle once a draft of it gives the golden mask."""
    manifest = source.manifest
    row = replace(plain, file=FILE, precision='int8', ir_version=ir_version(plain.opset or 0))
    variants = (row, *manifest.variants) if first else (*manifest.variants, row)
    golden = _golden(source)
    names = {v.file for v in manifest.variants} | {golden.image, golden.mask}
    files = {name: (source.folder / name).read_bytes() for name in sorted(names)}
    old = dict(manifest.provenance)
    new = replace(
        manifest, name=out.name, variants=variants, golden=golden,
        provenance={**old, **provenance(), **made,
                    'parents': [{key: old[key] for key in ('git', 'command', 'torch', 'parents')
                                 if key in old}]})
    files[FILE] = mixed.content
    with tempfile.TemporaryDirectory() as scratch:
        draft = write_bundle(Path(scratch) / out.name, new, files)
        agreement = _golden_agreement(draft)
    print(f'{agreement:.4f} of the golden mask agrees')
    if agreement < MIN_AGREEMENT['int8']:
        raise BundleError(f'quantize: {agreement:.4f} of the golden mask agrees in int8, at least '
                          f'{MIN_AGREEMENT["int8"]} is needed; raise --min-agreement, or export '
                          'with another --golden frame')
    return write_bundle(out, new, files)


def _golden(source: Bundle) -> Golden:
    golden = source.manifest.golden
    if golden is None:
        raise BundleError(f'{source.folder} has no golden frame to check int8 on; export it again')
    return replace(golden, min_agreement={**golden.min_agreement, 'int8': MIN_AGREEMENT['int8']})


def _golden_agreement(draft: Bundle) -> float:
    image_HWC, mask_HW = read_golden(draft)
    segmenter = Segmenter.open(str(draft.folder), precision='int8', threads=1)
    got_HW = segmenter(image_HWC, 'bgr').mask_HW
    segmenter.close()
    return float(np.mean(got_HW == mask_HW))
