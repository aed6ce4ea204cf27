# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where two bundles answer differently over one bag: the frames to look at, the worst first."""
from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import cv2
from evit_seg.replay.spool import in_step, read_spool, SpooledFrame, SpoolHead
import numpy as np

ALERT_WEIGHT = 20.0
"""
How much more a pixel counts where one of the two says a class that raises alerts.

Persons cover a few thousandths of a picture; unweighted, the edge of a field outranks them.
"""
SHOWN_PAIRS = 3


def disagreement(bag: str, first: tuple[str, Path], second: tuple[str, Path],
                 top: int = 20) -> dict[str, Any]:
    """
    Return the `top` frames of a bag on which two runs differ most, from their spools.

    `first` and `second` are (the model's name, its spool); two of one name are told apart by their
    sha256. Frames in which one sees an alert
    class and the other does not come first, those with most such classes at the top; then by the
    share of the picture that differs, weighted. Classes go by their slugs, so that label maps may
    differ. InputError for runs that were not over the same frames.
    """
    heads = [read_spool(path)[0] for _, path in (first, second)]
    alert_slugs = set(heads[0].alert_slugs) | set(heads[1].alert_slugs)
    names = [name if first[0] != second[0] else f'{name} ({head.sha256[:8]})'
             for head, (name, _) in zip(heads, (first, second))]
    frames, total = 0, 0.0
    ranks: list[tuple[int, float, int]] = []  # a heap, the least of the kept ones first
    rows: dict[int, dict[str, Any]] = {}
    for one, other in in_step([first[1], second[1]]):
        pairs = pair_shares(heads, (one, other))
        differs = {pair: share for pair, share in pairs.items() if pair[0] != pair[1]}
        alone = [{'class': slug, 'by': name} for name, mine, theirs in
                 ((names[0], one, other), (names[1], other, one))
                 for slug in mine.seen if slug not in theirs.seen]
        share, weighted = sum(differs.values()), weighted_share(differs, alert_slugs)
        frames, total = frames + 1, total + share
        if not differs and not alone:
            continue
        worst = sorted(differs.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_PAIRS]
        rows[one.index] = {
            't_s': (one.stamp_ns - one.first_ns) / 1e9, 'stamp_ns': one.stamp_ns,
            'index': one.index, 'share': round(share, 6), 'weighted': round(weighted, 6),
            'seen_by_one': alone,
            'confusion': [{'a': a, 'b': b, 'share': round(part, 6)} for (a, b), part in worst]}
        heapq.heappush(ranks, (len(alone), weighted, -one.index))
        if len(ranks) > top:
            del rows[-heapq.heappop(ranks)[2]]
    return {'bag': bag, 'models': names, 'frames': frames,
            'mean_share': round(total / frames, 6) if frames else None,
            'worst': [rows[-rank[2]] for rank in sorted(ranks, reverse=True)]}


def disagreement_lines(found: dict[str, Any], shown: int = 5) -> list[str]:
    """Return the lines to print of what `disagreement` returned."""
    if not found['frames']:
        return []
    one, other = found['models']
    lines = [f'{found["bag"]}: {one} and {other} differ on {found["mean_share"]:.2%} of the '
             'pixels; frames to look at:']
    for row in found['worst'][:shown]:
        alone = ', '.join(f'{seen["class"]} by {seen["by"]} alone' for seen in row['seen_by_one'])
        mixed = ', '.join(f'{pair["a"]} / {pair["b"]} {pair["share"]:.1%}'
                          for pair in row['confusion'])
        lines.append(f'  {row["t_s"]:8.2f} s  {row["share"]:6.2%}  '
                     + '; '.join(part for part in (alone, mixed) if part))
    return lines


def pair_shares(heads: list[SpoolHead],
                frames: tuple[SpooledFrame, SpooledFrame]) -> dict[tuple[str, str], float]:
    """Return (class of the one, class of the other) -> share of the picture, equal ones too."""
    height, width = (max(frame.mask_HW.shape[axis] for frame in frames) for axis in (0, 1))
    masks = [cv2.resize(frame.mask_HW, (width, height), interpolation=cv2.INTER_NEAREST)
             for frame in frames]
    both = np.bincount((masks[0].astype(np.int64) * 256 + masks[1]).reshape(-1))
    return {(heads[0].slugs[place // 256], heads[1].slugs[place % 256]):
            int(both[place]) / (height * width) for place in np.flatnonzero(both)}


def weighted_share(differs: dict[tuple[str, str], float], alert_slugs: set[str]) -> float:
    """Return the share that differs, each part times its weight; it may exceed 1."""
    return sum(share * (ALERT_WEIGHT if alert_slugs.intersection(pair) else 1.0)
               for pair, share in differs.items())
