# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The `bench` command: what a frame costs on the machine at hand."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
from evit_seg.benchmark.arguments import add_node_arguments, node_bench
from evit_seg.benchmark.node import bench_node
from evit_seg.benchmark.table import node_table
from evit_seg.core.engine import ENGINES
from evit_seg.core.errors import ConfigError, EvitSegError
from evit_seg.core.health import StageTimes
from evit_seg.core.machine import machine_facts, process_memory_mb
from evit_seg.core.mask import upscale_argmax
from evit_seg.core.preprocess import frame_geometry, preprocess
from evit_seg.core.segmenter import Segmenter
import numpy as np

PRE_POST_HW = ((512, 512), (1080, 1920))
MODEL_HW = (720, 1280)
MIXED_SHARES = (0.08, 0.15, 0.30, 0.50)
NETWORK_HW = (512, 512)
NUM_CLASSES = 14
# Any mean and deviation cost the same time; a network's own are in its manifest.
_MEAN, _DEVIATION = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the benchmarks that were asked for, print their tables; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.pre_post and args.model is None and args.node is None:
        parser.error('nothing to measure: give --pre-post, --model NAME_OR_PATH or '
                     '--node NAME_OR_PATH')
    result: Dict[str, Any] = {'machine': machine_facts(), 'commit': source_commit()}
    try:
        size_hw = None if args.size is None else _parse_size(args.size)
        if args.pre_post:
            result['pre_post'] = bench_pre_post(
                stride=args.stride, runs=args.runs,
                sizes_hw=PRE_POST_HW if size_hw is None else (size_hw,))
            print(pre_post_table(result['pre_post']))
        if args.model is not None:
            result['model'] = bench_model(args.model, size_hw or MODEL_HW, runs=args.runs,
                                          engine=args.engine, threads=args.threads,
                                          provider=args.provider, precision=args.precision)
            print(model_table(result['model']))
        if args.node is not None:
            result['node'] = bench_node(node_bench(args, size_hw))
            print(node_table(result['node']))
    except EvitSegError as error:
        print(f'bench: {error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('bench: interrupted', file=sys.stderr)
        return 130
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 0


def source_commit() -> Optional[str]:
    """Return the git commit this file is of, with '-dirty' behind it where files differ."""
    here = Path(__file__).resolve()
    try:
        for question in (['ls-files', '--error-unmatch', here.name],
                         ['describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']):
            said = subprocess.run(['git', '-C', str(here.parent), *question], text=True,
                                  check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout
        return None
    return said.stdout.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='bench', description='Time the stages of a frame on this machine.')
    parser.add_argument('--pre-post', action='store_true',
                        help='pre- and post-processing beside the textbook path, in one run')
    parser.add_argument('--model', metavar='NAME_OR_PATH',
                        help='stage times, frames/s and memory of the bare Segmenter')
    parser.add_argument('--node', metavar='NAME_OR_PATH',
                        help='the node over ROS 2 beside the bare Segmenter; see below')
    parser.add_argument('--size', metavar='WxH', help='frame size (default: 512x512 and '
                        '1920x1080 for --pre-post, 1280x720 for --model, 512x512 for --node)')
    parser.add_argument('--stride', type=int, default=8, choices=(4, 8, 16, 32),
                        help='network pixels per grid cell for --pre-post (default: %(default)s)')
    parser.add_argument('--runs', type=_positive, default=50,
                        help='frames per measurement (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=0,
                        help="the engine's threads (default: 0, it decides)")
    parser.add_argument('--engine', choices=ENGINES, default=ENGINES[0],
                        help='what runs the network (default: %(default)s)')
    parser.add_argument('--provider', default='cpu',
                        help="the engine's provider (default: %(default)s)")
    parser.add_argument('--precision', help='variant of the bundle (default: the first)')
    parser.add_argument('--json', type=Path, metavar='OUT', help='write all figures to this file')
    add_node_arguments(parser)
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected 1 or more, got {text!r}')
    return int(text)


def _parse_size(text: str) -> Tuple[int, int]:
    """Return (height, width) of a 'WxH'."""
    width, _, height = text.lower().partition('x')
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ConfigError(f'--size: expected WIDTHxHEIGHT such as 1280x720, got {text!r}')
    return int(height), int(width)


def bench_pre_post(*, stride: int = 8, runs: int = 50,
                   sizes_hw: Sequence[Tuple[int, int]] = PRE_POST_HW,
                   mixed_shares: Sequence[float] = MIXED_SHARES) -> List[Dict[str, Any]]:
    """
    Time our pre- and post-processing and the textbook's, in turns; a row per size and share.

    The frames are noise (pre-processing does not look at them), the logits blobs of 14 classes;
    times in ms are medians, `mixed_share` is the measured share of cells with a class boundary.
    """
    return [_pre_post_row(source_hw, stride, share, runs)
            for source_hw in sizes_hw for share in mixed_shares]


def _pre_post_row(source_hw: Tuple[int, int], stride: int, wanted_share: float, runs: int
                  ) -> Dict[str, Any]:
    frame_HWC = np.random.default_rng(0).integers(0, 256, (*source_hw, 3), dtype=np.uint8)
    geometry = frame_geometry(source_hw, NETWORK_HW, stride, 'stretch')
    logits, share = synthetic_logits(NUM_CLASSES, geometry.grid_hw, wanted_share)
    ms = _in_turns({
        'pre': lambda: preprocess(frame_HWC, 'bgr', input_hw=NETWORK_HW, stride=stride),
        'post': lambda: upscale_argmax(logits, geometry, source_hw),
        'textbook_pre': lambda: textbook_pre(frame_HWC, NETWORK_HW),
        'textbook_post': lambda: textbook_post(logits, source_hw),
        'interleaved_post': lambda: interleaved_post(logits, source_hw)}, runs)
    ours = ms['pre'] + ms['post']
    textbook = ms['textbook_pre'] + ms['textbook_post']
    interleaved = ms['textbook_pre'] + ms['interleaved_post']
    return {'height': source_hw[0], 'width': source_hw[1], 'stride': stride,
            'mixed_share': share, 'ours_ms': ours, 'textbook_ms': textbook,
            'interleaved_ms': interleaved, 'ratio': textbook / ours,
            'ratio_interleaved': interleaved / ours,
            **{f'{name}_ms': value for name, value in ms.items()}}


def textbook_pre(frame_HWC: np.ndarray, input_hw: Tuple[int, int]) -> np.ndarray:
    """Return the float32 (3, h, w) network input of a BGR frame, as most programs make it."""
    small = cv2.resize(frame_HWC, (input_hw[1], input_hw[0]), interpolation=cv2.INTER_LINEAR)
    scaled = cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
    return np.ascontiguousarray(((scaled - _MEAN) / _DEVIATION).transpose(2, 0, 1))


def textbook_post(logits_CHW: np.ndarray, out_hw: Tuple[int, int]) -> np.ndarray:
    """Return the uint8 (H, W) mask by upscaling plane after plane, then argmax over the planes."""
    upscaled = np.stack([cv2.resize(plane, (out_hw[1], out_hw[0]),
                                    interpolation=cv2.INTER_LINEAR) for plane in logits_CHW])
    mask_HW: np.ndarray = upscaled.argmax(axis=0)
    return mask_HW.astype(np.uint8)


def interleaved_post(logits_CHW: np.ndarray, out_hw: Tuple[int, int]) -> np.ndarray:
    """Return the same by upscaling all classes at once, channels last: the quickest plain way."""
    upscaled = cv2.resize(np.ascontiguousarray(logits_CHW.transpose(1, 2, 0)),
                          (out_hw[1], out_hw[0]), interpolation=cv2.INTER_LINEAR)
    mask_HW: np.ndarray = upscaled.argmax(axis=-1)
    return mask_HW.astype(np.uint8)


def synthetic_logits(num_classes: int, grid_hw: Tuple[int, int], mixed_share: float,
                     seed: int = 0) -> Tuple[np.ndarray, float]:
    """
    Return smooth random logits (C, h, w) and their share of mixed cells, near the wanted one.

    Blurred noise: the finer the blobs, the more cells have corners that disagree.
    """
    noise = np.random.default_rng(seed).standard_normal((num_classes, *grid_hw))
    fine, coarse = 0.3, float(max(grid_hw))
    for _ in range(12):
        sigma = (fine * coarse) ** 0.5
        blobs = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in noise])
        logits = (4 * blobs / blobs.std()).astype(np.float32)
        share = _mixed_share(logits)
        fine, coarse = (sigma, coarse) if share > mixed_share else (fine, sigma)
    return logits, share


def _mixed_share(logits_CHW: np.ndarray) -> float:
    labels_HW = logits_CHW.argmax(axis=0)
    corner = labels_HW[:-1, :-1]
    mixed = (corner != labels_HW[1:, :-1]) | (corner != labels_HW[:-1, 1:]) \
        | (corner != labels_HW[1:, 1:])
    return float(mixed.mean()) if mixed.size else 0.0


def _in_turns(contenders: Mapping[str, Callable[[], Any]], runs: int) -> Dict[str, float]:
    """Return the median time of each in ms; one run of each in turn, so that load hits all."""
    for contender in contenders.values():
        contender()
    times_ms: Dict[str, List[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            begin_s = time.perf_counter()
            contender()
            times_ms[name].append((time.perf_counter() - begin_s) * 1e3)
    return {name: float(np.median(values)) for name, values in times_ms.items()}


def bench_model(name_or_path: str, source_hw: Tuple[int, int], *, runs: int = 50,
                engine: str = 'onnxruntime', threads: int = 0, provider: str = 'cpu',
                precision: Optional[str] = None) -> Dict[str, Any]:
    """Time the bare Segmenter on frames of one size, mask at source size; ms, frames/s, MB."""
    segmenter = Segmenter.open(name_or_path, engine=engine, threads=threads, provider=provider,
                               precision=precision)
    try:
        segmenter.warm_up()
        frames = np.random.default_rng(0).integers(0, 256, (4, *source_hw, 3), dtype=np.uint8)
        times = StageTimes(window=runs)
        begin_s = time.perf_counter()
        for number in range(runs):
            stage_ms = segmenter(frames[number % len(frames)], 'bgr').stage_ms
            times.add({**stage_ms, 'total': sum(stage_ms.values())})
        elapsed_s = time.perf_counter() - begin_s
        loaded = segmenter.engine
        return {'name': segmenter.manifest.name, 'sha256': segmenter.bundle.sha256,
                'engine': loaded.name, 'provider': loaded.provider,
                'precision': loaded.precision, 'input_hw': list(loaded.input_hw),
                'height': source_hw[0], 'width': source_hw[1], 'runs': runs,
                'frames_per_s': runs / elapsed_s, 'rss_mb': process_memory_mb()['rss'],
                'stages': {stage: {'p50_ms': summary.p50_ms, 'p95_ms': summary.p95_ms}
                           for stage, summary in times.summary().items()}}
    finally:
        segmenter.close()


def pre_post_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `bench_pre_post` as text."""
    lines = ['pre + post in ms (medians); textbook: float32 input, every class upscaled plane by',
             'plane, argmax; interleaved: the same with channels last',
             '                             ours           textbook            interleaved',
             '    frame stride  mixed   pre  post   sum    pre   post    sum      sum    ratios']
    for row in rows:
        frame = f"{row['width']}x{row['height']}"
        lines.append(f"{frame:>9} {row['stride']:6} {row['mixed_share']:6.1%} "
                     f"{row['pre_ms']:5.2f} {row['post_ms']:5.2f} {row['ours_ms']:5.2f} "
                     f"{row['textbook_pre_ms']:6.2f} {row['textbook_post_ms']:6.1f} "
                     f"{row['textbook_ms']:6.1f}   {row['interleaved_ms']:6.1f}  "
                     f"{row['ratio']:5.1f}x {row['ratio_interleaved']:5.1f}x")
    return '\n'.join(lines)


def model_table(result: Mapping[str, Any]) -> str:
    """Return the result of `bench_model` as text."""
    memory = 'unknown' if result['rss_mb'] is None else f"{result['rss_mb']:.0f} MB"
    lines = [f"{result['name']} ({result['engine']}, {result['provider']}, "
             f"{result['precision']}), {result['width']}x{result['height']}: "
             f"{result['frames_per_s']:.1f} frames/s, memory {memory}",
             '  stage    p50 ms    p95 ms']
    lines += [f"  {stage:7} {value['p50_ms']:7.2f}   {value['p95_ms']:7.2f}"
              for stage, value in result['stages'].items()]
    return '\n'.join(lines)


if __name__ == '__main__':
    sys.exit(main())
