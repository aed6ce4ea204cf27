# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A result of `offline_train evaluate` as text for a terminal."""
from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

_NAME = 28


def format_scores(result: Mapping[str, Any]) -> str:
    """Return all of a result as short tables: scores, classes, objects, differences, warnings."""
    parts = [_head(result), _classes(result['scores']['classes']),
             _objects(result['object_recall'])]
    if 'against' in result:
        parts.append(_against(result))
    warnings = '\n'.join(f'WARNING: {text}' for text in result['warnings'])
    return '\n\n'.join(part for part in (*parts, warnings) if part)


def _head(result: Mapping[str, Any]) -> str:
    scores, data, bundle = result['scores'], result['data'], result['bundle']
    size = 'x'.join(map(str, data['size'])) if data['size'] else 'several sizes'
    stages = ' + '.join(f'{stage} {value:.1f}' for stage, value in result['median_ms'].items())
    threads = f'{result["threads"]} threads' if result['threads'] else 'all cores'
    return '\n'.join([
        f'{bundle["name"]} ({bundle["precision"]}) on {data["name"]}, split {data["split"]}: '
        f'{data["frames"]} frames, compared at {size}',
        f'dataset mIoU {_shown(scores["dataset"]["miou"])}, '
        f'accuracy {_shown(scores["dataset"]["accuracy"])}, '
        f'LPCV Dice {_shown(scores["lpcv"]["dice"])}, flood IoU {_shown(scores["flood_iou"])}',
        f'{scores["seconds_per_image"] * 1e3:.1f} ms per image here ({result["engine"]} '
        f'{result["provider"]}, {threads}; medians {stages}): '
        f'paper score {_shown(scores["paper_score"], 2)}, '
        f'LPCV score {_shown(scores["lpcv"]["score"], 2)}'])


def _classes(rows: List[Dict[str, Any]]) -> str:
    lines = [f'{"class":<{_NAME}}{"IoU":>7}{"Dice":>7}{"precision":>11}{"recall":>8}'
             f'{"truth px":>12}']
    lines += [f'{row["slug"]:<{_NAME}}{_shown(row["iou"]):>7}{_shown(row["dice"]):>7}'
              f'{_shown(row["precision"]):>11}{_shown(row["recall"]):>8}{row["truth_px"]:>12}'
              for row in rows if row['truth_px'] or row['predicted_px']]
    idle = [row['slug'] for row in rows if not row['truth_px'] and not row['predicted_px']]
    if idle:
        lines.append(f'neither in the truth nor predicted: {", ".join(idle)}')
    return '\n'.join(lines)


def _objects(tables: Mapping[str, List[Dict[str, Any]]]) -> str:
    """Return recall by size of the classes that have objects."""
    lines = []
    for slug, rows in tables.items():
        lines += [f'{slug if row is rows[0] else "":<{_NAME - 12}}{_bin(row):>12}'
                  f'{row["objects"]:>9}{_shown(row["recall"]):>7}'
                  f'{_shown(row["touched_recall"]):>9}{_shown(row["pixel_recall"]):>14}'
                  for row in rows if any(r['objects'] for r in rows)]
    if not lines:
        return ''
    return '\n'.join([f'{"recall by object size":<{_NAME - 5}}{"px":>5}{"objects":>9}{"hit":>7}'
                      f'{"touched":>9}{"pixel recall":>14}', *lines])


def _bin(row: Mapping[str, Any]) -> str:
    return f'>= {row["min_px"]}' if row['max_px'] is None else f'{row["min_px"]}-{row["max_px"]}'


def _against(result: Mapping[str, Any]) -> str:
    against = result['against']
    bundle, difference = against['bundle'], against['difference']
    lines = [f'against {bundle["name"]} ({bundle["precision"]}): '
             f'mIoU {_signed(difference["miou"])}, LPCV Dice {_signed(difference["lpcv_dice"])}',
             f'{"difference":<{_NAME}}{"IoU":>7}{"Dice":>8}{"precision":>11}{"recall":>8}']
    lines += [f'{row["slug"]:<{_NAME}}{_signed(row["iou"]):>7}{_signed(row["dice"]):>8}'
              f'{_signed(row["precision"]):>11}{_signed(row["recall"]):>8}'
              for row in difference['classes'] if row['iou'] is not None]
    return '\n'.join(lines)


def _shown(value: Optional[float], digits: int = 3) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _signed(value: Optional[float]) -> str:
    return '-' if value is None else f'{value:+.3f}'
