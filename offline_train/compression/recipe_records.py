# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What is recorded of a step: scores, size, latency beside the first network, memory, energy."""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from evit_seg.core.bundle import Bundle, open_bundle, select_variant
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import ConfigError
from evit_seg.core.machine import machine_facts
from evit_seg.core.onnx_graph import Graph, graph_facts, read_model
from evit_seg.core.segmenter import Segmenter
from offline_train import bench, eager, evaluate
from offline_train.compression.recipe import Recipe
from offline_train.measuring.memory import measure_memory
from offline_train.measuring.power import find_sensor
from offline_train.run_dir import RunDir

EAGER_HW = (720, 1280)
"""The camera's frame and the mask of a comparison with eager PyTorch."""
_SAME = ('name', 'split', 'split_sha256', 'masks_sha256', 'compare_at', 'frames')


def evaluate_argv(recipe: Recipe, bundle: Path, precision: str, out: Path) -> List[str]:
    """Return the words of the `evaluate` command that scores a step; no precision: the first."""
    data = recipe.data
    words = ['--bundle', str(bundle), *(['--precision', precision] if precision else []),
             '--data' if data.folder else '--dataset', data.folder or data.dataset]
    if data.root:
        words += ['--root', data.root]
    return [*words, '--split', data.split, '--limit', str(data.limit), '--compare-at',
            data.compare_at, '--threads', str(recipe.bench.threads), '--provider',
            recipe.bench.provider, '--json', str(out)]


def measure_step(recipe: Recipe, bundle_folder: Path, precision: str, first: Optional[Path],
                 out: Path) -> Dict[str, Any]:
    """
    Score a bundle on the recipe's data and time it in turns with the first bundle.

    precision: the variant; empty: the first. first: None where this is the first bundle. out: file
    of the whole result of `evaluate`.
    """
    bundle = open_bundle(bundle_folder)
    parser = argparse.ArgumentParser(prog='offline_train evaluate')
    evaluate.add_arguments(parser)
    evaluate.main(parser.parse_args(evaluate_argv(recipe, bundle_folder, precision, out)))
    scored = json.loads(out.read_text(encoding='utf-8'))
    confusion = scored['confusion']
    return {
        'bundle': {'name': bundle.manifest.name, 'sha256': bundle.sha256},
        'precision': scored['bundle']['precision'], 'input_hw': scored['bundle']['input_hw'],
        'data': {key: scored['data'].get(key) for key in _SAME},
        'miou': scored['scores']['dataset']['miou'],
        'classes': {row['slug']: {'recall': row['recall'], 'iou': row['iou'],
                                  'hit_px': confusion[row['id']][row['id']],
                                  'truth_px': row['truth_px']}
                    for row in scored['scores']['classes']},
        **_timed(recipe, bundle, precision, first), 'machine': machine_facts()}


def _timed(recipe: Recipe, bundle: Bundle, precision: str, first: Optional[Path]
           ) -> Dict[str, Any]:
    """Return latency, its ratio to the first bundle's in the same rounds, memory and energy."""
    own = _target(bundle, precision)
    targets = [own] if first is None else [_target(open_bundle(first), ''), own]
    settings = recipe.bench
    memory = measure_memory(own.bundle.folder, precision=own.variant.precision,
                            height=own.variant.height, provider=settings.provider,
                            threads=settings.threads, size=own.size_hw)
    segmenters = [Segmenter(t.bundle, load_engine(t.bundle, variant=t.variant,
                                                  threads=settings.threads,
                                                  provider=settings.provider)) for t in targets]
    results = bench.measure(targets, segmenters, find_sensor(provider=settings.provider),
                            runs=settings.runs, warm_up=settings.warm_up,
                            energy_s=settings.energy_seconds, idle_s=settings.idle_seconds)
    for segmenter in segmenters:
        segmenter.close()
    result = results[-1]
    return {'parameters': result['bundle']['parameters'], 'gmacs': result['gmacs'],
            'file_mb': result['file_mb'], 'latency_ms': result['latency_ms'],
            'first_latency_ms': results[0]['latency_ms'],
            'latency_ratio': result['ratio_to_first'] or {'p25': 1.0, 'p50': 1.0, 'p75': 1.0},
            'peak_rss_mb': memory['peak_rss_mb'],
            'energy_mj_per_frame': result['energy_mj_per_frame'],
            'energy_source': result['energy_source'], 'engine': result['engine'],
            'provider': result['provider'], 'threads': settings.threads, 'runs': settings.runs}


def against_eager(recipe: Recipe, start: RunDir, bundle: Path, precision: str) -> Dict[str, Any]:
    """
    Return `ratio`, a bundle's time over that of the first network in eager PyTorch.

    Camera frame in, mask out, in turns; `eager_ms` and `bundle_ms` are the medians.
    """
    threads = recipe.bench.threads or len(os.sched_getaffinity(0))
    result = eager.measure(start, [f'{bundle}:{precision}'], EAGER_HW, threads=threads,
                           rounds=recipe.bench.runs)
    first, last = result['rows']
    return {'ratio': last['ratio_to_eager'], 'eager_ms': first['ms']['p50'],
            'bundle_ms': last['ms']['p50'], 'frame': list(EAGER_HW), 'threads': threads}


def _target(bundle: Bundle, precision: str) -> bench.Target:
    variant = select_variant(bundle, precision=precision or None)
    return bench.Target(bundle, variant, variant.input_hw, None, None)


def graph_of(folder: Path, precision: str) -> Graph:
    """Return what the ONNX graph of a bundle's variant costs, node by node."""
    bundle = open_bundle(folder)
    return graph_facts(read_model(folder / select_variant(bundle, precision=precision).file))


def check_same_data(record: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a step was scored on the images that the first one was."""
    if record['data'] != first['data']:
        raise ConfigError(f'{record["step"]}: expected scores on the data of {first["step"]}, '
                          f'{first["data"]!r}, got {record["data"]!r}; the images have changed, '
                          'take a new --out')


def table(records: Sequence[Mapping[str, Any]], guarded: Sequence[str]) -> str:
    """Return the steps as a Markdown table, and the recall of every class in a second one."""
    heads = ['step', 'precision', 'mIoU', *(f'recall {slug}' for slug in guarded), 'parameters',
             'GMACs', 'MB', 'ms (p50)', 'of the first', 'peak RSS MB', 'mJ/frame']
    rows = [[record['step'], record['precision'], _shown(record['miou'], 4),
             *(_shown(record['classes'][slug]['recall'], 3) for slug in guarded),
             _shown(record['parameters'], 0), _shown(record['gmacs'], 3),
             _shown(record['file_mb'], 2), _shown(record['latency_ms']['p50'], 2),
             _shown(record['latency_ratio']['p50'], 3), _shown(record['peak_rss_mb'], 0),
             _shown(record['energy_mj_per_frame'], 1)] for record in records]
    slugs = [slug for slug, row in records[0]['classes'].items() if row['truth_px']]
    classes = [[slug, *(f'{_shown(r["classes"][slug]["recall"], 3)} / '
                        f'{_shown(r["classes"][slug]["iou"], 3)}' for r in records)]
               for slug in slugs]
    return _markdown(heads, rows) + '\n\n' + _markdown(
        ['recall / IoU', *(record['step'] for record in records)], classes) + '\n'


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines: List[Tuple[str, ...]] = [tuple(heads), tuple('-' * width for width in widths),
                                    *(tuple(row) for row in rows)]
    return '\n'.join('| ' + ' | '.join(cell.ljust(width) for cell, width
                                       in zip(line, widths, strict=True)) + ' |'
                     for line in lines)


def _shown(value: Optional[float], digits: int) -> str:
    return '-' if value is None else f'{value:,.{digits}f}'
