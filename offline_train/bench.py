# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
What a bundle costs on the machine at hand: time, memory, energy, and the paper's score.

Needs core and an engine only (no torch, no onnx), so that a Jetson or a Raspberry Pi can run it.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import cv2
from evit_seg.core.bundle import Bundle, find_bundle, open_bundle, read_golden, select_variant
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.machine import machine_facts, percentiles_ms, thermal_state
from evit_seg.core.manifest import Variant
from evit_seg.core.segmenter import Segmenter
import numpy as np
from offline_train.measuring.energy import measure_energy
from offline_train.measuring.memory import measure_memory
from offline_train.measuring.power import find_sensor, Found
from offline_train.measuring.text import bench_notes, bench_text

STAGES = ('pre', 'infer', 'post')
_EPILOG = """\
Several bundles are timed in turns in one process (A B A B ...), so that other load on the machine
hits all of them alike and their ratio is fair; give a bundle twice to see what noise is left.
Memory is measured before that, one child process per bundle. Energy is measured in blocks of
seconds, since no sensor follows single frames; without a readable sensor it is null, with the
reason. FPS is 1000 / mean ms of the whole call (pre + infer + post), one frame after the other;
the paper's score is mIoU x FPS, that is mIoU / seconds per image.

  offline_train bench demo
  offline_train bench runs/a/bundle/a runs/b/bundle/b --threads 4 --size 1280x720 --json results/
  offline_train bench runs/a/bundle/a --precision fp32 --precision fp16 --provider cuda
  offline_train bench runs/a/bundle/a --evaluate runs/a/evaluate.json --json runs/a/bench.json

--json with one measurement writes one object to that file; with several it is a folder and gets
one file each: bench_1_NAME_PRECISION.json, bench_2_...
"""


@dataclass(frozen=True)
class Target:
    """One measurement to make: a variant of a bundle, with its mIoU where one was given."""

    bundle: Bundle
    variant: Variant
    size_hw: Tuple[int, int]
    miou: Optional[float]
    miou_source: Optional[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train bench`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument('bundles', nargs='+', metavar='BUNDLE',
                        help='bundle folder or name under models/')
    parser.add_argument('--precision', action='append', metavar='NAME',
                        help='fp32, fp16, int8; may be repeated: each bundle is measured in each '
                             "(default: the bundle's first variant)")
    parser.add_argument('--provider', default='cpu',
                        help='cpu, cuda or tensorrt (default: %(default)s)')
    parser.add_argument('--threads', type=_whole, default=0,
                        help='engine threads, 0: the engine decides (default: %(default)s)')
    parser.add_argument('--runs', type=_positive, default=100,
                        help='timed frames per measurement (default: %(default)s)')
    parser.add_argument('--warm-up', type=_positive, default=5, metavar='N',
                        help='frames before the timed ones (default: %(default)s)')
    parser.add_argument('--size', metavar='WxH',
                        help="size of the camera's frame and of the mask (default: the network's)")
    parser.add_argument('--miou', type=float, action='append', metavar='X',
                        help="mIoU, 0 to 1, for the paper's score; one for each measurement")
    parser.add_argument('--evaluate', type=Path, action='append', metavar='FILE',
                        help='take the mIoU from what `evaluate --json` wrote for this bundle and '
                             'precision; may be repeated')
    parser.add_argument('--energy-seconds', type=_positive, default=10, metavar='S',
                        help='seconds of frames per measurement for the energy, if there is a '
                             'sensor (default: %(default)s)')
    parser.add_argument('--idle-seconds', type=_whole, default=5, metavar='S',
                        help='seconds of rest to measure the idle power, 0: do not '
                             '(default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='OUT',
                        help='write the result: a file, or a folder for several (see below)')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train bench`."""
    targets = plan(args)
    outputs = None if args.json is None else output_files(args.json, targets)
    machine = machine_facts()
    memory = [measure_memory(t.bundle.folder, precision=t.variant.precision,
                             height=t.variant.height, provider=args.provider,
                             threads=args.threads, size=t.size_hw) for t in targets]
    segmenters = [Segmenter(t.bundle, load_engine(t.bundle, variant=t.variant,
                                                  threads=args.threads, provider=args.provider))
                  for t in targets]
    found = find_sensor(provider=args.provider)
    results = measure(targets, segmenters, found, runs=args.runs, warm_up=args.warm_up,
                      energy_s=args.energy_seconds, idle_s=args.idle_seconds)
    for result, needs in zip(results, memory):
        result.update(needs, machine=machine, threads=args.threads, runs=args.runs,
                      warm_up=args.warm_up)
        result['notes'] = bench_notes(result)
    for segmenter in segmenters:
        segmenter.close()
    print(bench_text(results))
    for path, result in zip(outputs or [], results):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    return 0


def plan(args: argparse.Namespace) -> List[Target]:
    """Return the measurements that were asked for; everything wrong with them is said here."""
    size_hw = None if args.size is None else _parse_size(args.size)
    pairs = []
    for name in args.bundles:
        bundle = open_bundle(find_bundle(name))
        pairs += [(bundle, select_variant(bundle, precision=precision))
                  for precision in args.precision or [None]]
    return [Target(bundle, variant, size_hw or variant.input_hw, miou, source)
            for (bundle, variant), (miou, source) in zip(pairs, _mious(args, pairs))]


def _mious(args: argparse.Namespace, pairs: Sequence[Tuple[Bundle, Variant]]
           ) -> Sequence[Tuple[Optional[float], Optional[str]]]:
    if args.miou is not None and args.evaluate is not None:
        raise ConfigError('--miou and --evaluate: expected one of them, got both')
    if args.miou is not None:
        if len(args.miou) != len(pairs) or not all(0 <= miou <= 1 for miou in args.miou):
            raise ConfigError(f'--miou: expected {len(pairs)} value(s) of 0 to 1, one for each '
                              f'measurement, got {args.miou!r}')
        return [(miou, 'given with --miou') for miou in args.miou]
    wanted = [(bundle.sha256, variant.precision) for bundle, variant in pairs]
    known: Dict[Tuple[str, str], Tuple[float, str]] = {}
    for path in args.evaluate or []:
        key, miou, source = read_miou(path)
        if key not in wanted or key in known:
            why = 'was given before' if key in known else 'is not among those measured here: ' \
                f'{[(sha256[:12], precision) for sha256, precision in wanted]}'
            raise InputError(f'--evaluate: {path} is of the bundle with sha256 {key[0][:12]} in '
                             f'{key[1]}, which {why}')
        known[key] = miou, source
    return [known.get(key, (None, None)) for key in wanted]


def read_miou(path: Path) -> Tuple[Tuple[str, str], float, str]:
    """Return a bundle's (sha256, precision), its mIoU and on what, as `evaluate` wrote them."""
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
        if content['kind'] != 'evaluate':
            raise ValueError(f'its kind is {content["kind"]!r}')
        bundle, data = content['bundle'], content['data']
        size = 'mixed sizes' if data['size'] is None else f'{data["size"][1]}x{data["size"][0]}'
        source = f'{data.get("name")}/{data["split"]}, {data["frames"]} frames of {size}'
        miou = float(content['scores']['dataset']['miou'])
        return (str(bundle['sha256']), str(bundle['precision'])), miou, source
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(f'--evaluate: expected the JSON that `offline_train evaluate --json` '
                         f'writes, {path}: {type(error).__name__}: {error}') from error


def output_files(out: Path, targets: Sequence[Target]) -> List[Path]:
    """Return one file per measurement: `out` itself for one, else files of the folder `out`."""
    if len(targets) == 1 and not out.is_dir():
        return [out]
    if out.is_file() or (len(targets) > 1 and out.suffix == '.json'):
        raise ConfigError(f'--json {out}: expected a folder, since there are {len(targets)} '
                          'measurements and each has its own file')
    return [out / f'bench_{number}_{t.bundle.manifest.name}_{t.variant.precision}.json'
            for number, t in enumerate(targets, 1)]


def measure(targets: Sequence[Target], segmenters: Sequence[Segmenter], found: Found, *,
            runs: int, warm_up: int, energy_s: float, idle_s: float) -> List[Dict[str, Any]]:
    """Return one result per target, all but memory and machine; a frame of each in turns."""
    frames, content = camera_frames(targets)
    for segmenter, own in zip(segmenters, frames):
        for number in range(warm_up):
            segmenter(own[number % len(own)], 'bgr')
    start = thermal_state()
    stage_ms: List[Dict[str, List[float]]] = [{stage: [] for stage in STAGES} for _ in targets]
    for number in range(runs):
        for segmenter, own, times in zip(segmenters, frames, stage_ms):
            taken = segmenter(own[number % len(own)], 'bgr').stage_ms
            for stage in STAGES:
                times[stage].append(taken[stage])
    thermal = {'start': start, 'end': thermal_state()}
    calls = [_caller(s, own) for s, own in zip(segmenters, frames)]
    energy = measure_energy(calls, found, seconds=energy_s, idle_seconds=idle_s)
    results = [_result(target, segmenter, times, content) for target, segmenter, times
               in zip(targets, segmenters, stage_ms)]
    for result, times, used in zip(results, stage_ms, energy):
        result.update(used, thermal=thermal, in_turns=len(targets),
                      ratio_to_first=ratio(times, stage_ms[0]) if len(targets) > 1 else None)
    return results


def camera_frames(targets: Sequence[Target]) -> Tuple[List[List[np.ndarray]], str]:
    """
    Return four BGR frames per target at its size, and what they show.

    The same scene for all, as post-processing costs more where many classes meet: the golden
    frame of the first bundle, shifted; noise where it has none.
    """
    first = targets[0].bundle
    if first.manifest.golden is not None:
        image_HWC, content = read_golden(first)[0], f'golden frame of {first.manifest.name}'
    else:
        image_HWC = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        content = 'noise (the first bundle has no golden frame)'
    frames = []
    for target in targets:
        sized_HWC = cv2.resize(image_HWC, target.size_hw[::-1], interpolation=cv2.INTER_LINEAR)
        frames.append([np.roll(sized_HWC, 16 * number, axis=1) for number in range(4)])
    return frames, content


def _caller(segmenter: Segmenter, frames: Sequence[np.ndarray]) -> Callable[[], Any]:
    return lambda: segmenter(frames[0], 'bgr')


def _result(target: Target, segmenter: Segmenter, stage_ms: Dict[str, List[float]],
            content: str) -> Dict[str, Any]:
    latency_ms = percentiles_ms(np.sum([stage_ms[stage] for stage in STAGES], axis=0))
    fps = 1000 / latency_ms['mean']
    provenance, variant = target.bundle.manifest.provenance, target.variant
    return {
        'kind': 'bench',
        'bundle': {'name': target.bundle.manifest.name, 'sha256': target.bundle.sha256,
                   'precision': variant.precision, 'file': variant.file,
                   'parameters': _number(provenance.get('parameters'))},
        'engine': segmenter.engine.name, 'provider': segmenter.engine.provider,
        'size': list(target.size_hw), 'input_size': list(variant.input_hw), 'frames': content,
        'latency_ms': latency_ms,
        'stage_ms': {stage: percentiles_ms(stage_ms[stage]) for stage in STAGES},
        'fps': round(fps, 3), 'gmacs': _number(provenance.get('gmacs')),
        'file_mb': round(variant.bytes / 1e6, 3),
        'miou': target.miou, 'miou_source': target.miou_source,
        'paper_score': None if target.miou is None else round(target.miou * fps, 4),
    }


def ratio(stage_ms: Dict[str, List[float]], first_ms: Dict[str, List[float]]) -> Dict[str, float]:
    """Return p25, p50, p75 of the whole call's time over the first's in the same round."""
    own, first = (np.sum([times[stage] for stage in STAGES], axis=0)
                  for times in (stage_ms, first_ms))
    low, middle, high = np.percentile(own / first, (25, 50, 75))
    return {'p25': round(float(low), 4), 'p50': round(float(middle), 4),
            'p75': round(float(high), 4)}


def _number(value: Any) -> Optional[float]:
    """Return a number of the manifest as it stands there, None for anything else."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def _parse_size(text: str) -> Tuple[int, int]:
    """Return (height, width) of a 'WxH'."""
    width, _, height = text.lower().partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f'--size: expected WIDTHxHEIGHT such as 1280x720, got {text!r}')
    return int(height), int(width)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'expected a whole number from 0, got {text!r}')
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'expected a whole number from 1, got {text!r}')
    return int(text)
