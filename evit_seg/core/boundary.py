# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The mixed cells of a mask: which class wins where, without interpolating every class.

Within a grid cell every logit is linear along a row of pixels. So a row needs the logits at its
two ends only: the winner at the left end gives way to the winner at the right end where their
difference crosses zero, unless a third class rises above that crossing (on either side of it the
lead over a third class is linear: if it is positive at the ends and at the crossing, it is so
everywhere). Rows with a third class are evaluated pixel by pixel for the cell's candidates; pixels
where two classes come closer than float32 can tell are decided by the definition itself,
`bilinear.argmax_at`.
"""
from __future__ import annotations

from typing import NamedTuple, Tuple

from evit_seg.core.bilinear import argmax_at, Axis
import numpy as np

_Pixels = Tuple[np.ndarray, np.ndarray]  # y and x, (n,) each

_LINES_AT_ONCE = 1 << 14
_VALUES_AT_ONCE = 1 << 19
# Share of the peak logit: a crossing is only trusted to exclude third classes if its two classes
# part by 2^-7 (its place is then known to 2^-12) and the third stays 2^-11 below.
_CLEAR_SLOPE = 2.0 ** -7
_CLEAR_RIVAL = 2.0 ** -11


class _Cells(NamedTuple):
    """
    Mixed cells: grid row and column (N,) and the logits at their corners (C, 4, N).

    Corners in the order upper left, upper right, lower left, lower right.
    """

    row: np.ndarray
    col: np.ndarray
    corners: np.ndarray

    def pick(self, some: np.ndarray) -> _Cells:
        """Return the cells of these numbers."""
        return _Cells(self.row[some], self.col[some], self.corners[:, :, some])


class _Lines(NamedTuple):
    """
    Rows of pixels inside one cell each, all arrays (M,).

    `left` and `right` are the winners at the two ends, `lead_left` and `lead_right` how far each
    is ahead of the other there; `sure` is False where the pixels need a closer look.
    """

    y: np.ndarray
    col: np.ndarray
    left: np.ndarray
    right: np.ndarray
    lead_left: np.ndarray
    lead_right: np.ndarray
    sure: np.ndarray

    def pick(self, some: np.ndarray) -> _Lines:
        """Return the lines of these numbers."""
        return _Lines(*(column[some] for column in self))


class _Unclear(NamedTuple):
    """
    Lines that take more than two classes or a closer look: `y` and `col` (M,).

    `ids`, `left` and `right`: the candidates and their logits at the two ends, (slots, M).
    """

    y: np.ndarray
    col: np.ndarray
    ids: np.ndarray
    left: np.ndarray
    right: np.ndarray


def draw_boundaries(mask_HW: np.ndarray, logits: np.ndarray, mixed: np.ndarray, rows: Axis,
                    cols: Axis, peak: float, tolerance: np.float32) -> None:
    """
    Overwrite the pixels of the mixed cells in `mask_HW`, uint8 and contiguous.

    `mixed` is bool (h - 1, w - 1), `logits` float32 (C, h, w) with |logit| <= peak; differences
    above `tolerance` are beyond doubt.
    """
    row, col = np.nonzero(mixed)
    if not len(row):
        return
    chunk = np.cumsum(rows.size_px[row]) // _LINES_AT_ONCE
    width = logits.shape[2]
    flat = logits.reshape(len(logits), -1)
    for part in np.split(np.arange(len(row)), np.flatnonzero(np.diff(chunk)) + 1):
        at = row[part] * width + col[part]
        corners = flat.take(np.stack([at, at + 1, at + width, at + width + 1]), axis=1)
        cells = _Cells(row[part], col[part], corners)
        unsure = _draw_cells(mask_HW, cells, rows, cols, peak, tolerance)
        if len(unsure[0]):
            mask_HW[unsure] = argmax_at(logits, rows, cols, *unsure)


def _draw_cells(mask_HW: np.ndarray, cells: _Cells, rows: Axis, cols: Axis, peak: float,
                tolerance: np.float32) -> _Pixels:
    """Draw the cells and return the pixels (y, x) that are left to the definition."""
    keep, first, second = _candidates(cells.corners, tolerance)
    number = np.arange(len(first))
    is_pair = (keep.sum(axis=0) == 2) & (first != second) & keep[first, number] \
        & keep[second, number]
    pairs, groups = np.flatnonzero(is_pair), np.flatnonzero(~is_pair)
    parts, undecided = [], []
    if len(pairs):
        parts.append(_pair_lines(cells.pick(pairs), first[pairs], second[pairs], rows, tolerance))
    if len(groups):
        lines, unclear = _group_lines(cells.pick(groups), keep[:, groups], rows, peak, tolerance)
        parts.append(lines)
        undecided.append(_draw_pixelwise(mask_HW, unclear, cols, tolerance))
    lines = _Lines(*(np.concatenate(column) for column in zip(*parts)))
    undecided.append(_draw_lines(mask_HW, lines, cols, tolerance))
    y, x = (np.concatenate(column) for column in zip(*undecided))
    return y, x


def _candidates(corners: np.ndarray, tolerance: np.float32
                ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return which classes can win in each cell, bool (C, N), and two strong ones, (N,) each.

    A class is out where it stays below one of the two at all four corners: bilinear weights are
    positive, so order at the corners is order inside.
    """
    number = np.arange(corners.shape[2])
    first = corners[:, 0].argmax(axis=0)
    first_logits = corners[first, :, number].T
    ahead = (corners - first_logits).max(axis=1)
    second = ahead.argmax(axis=0)
    second_logits = corners[second, :, number].T
    out = ahead < -tolerance
    out |= (corners - second_logits).max(axis=1) < -tolerance
    return ~out, first, second


def _pair_lines(cells: _Cells, first: np.ndarray, second: np.ndarray, rows: Axis,
                tolerance: np.float32) -> _Lines:
    """Return the lines of cells where only the classes `first` and `second` (N,) can win."""
    number = np.arange(len(first))
    ahead = (cells.corners[first, :, number] - cells.corners[second, :, number]).T
    cell, y = _lines_of(cells, rows)
    left, right = _ends(ahead, cell, y, rows)
    first, second = first.astype(np.uint8)[cell], second.astype(np.uint8)[cell]
    first_left, first_right = left >= 0, right >= 0
    left, right = np.abs(left), np.abs(right)
    sure = (first_left != first_right) | (np.minimum(left, right) > tolerance)
    return _Lines(y, cells.col[cell], np.where(first_left, first, second),
                  np.where(first_right, first, second), left, right, sure)


def _group_lines(cells: _Cells, keep: np.ndarray, rows: Axis, peak: float,
                 tolerance: np.float32) -> Tuple[_Lines, _Unclear]:
    """Return the lines of cells with any number of candidates, and those with a third class."""
    ids, logits = _slots(cells.corners, keep, np.float32(-4 * peak - 1))
    cell, y = _lines_of(cells, rows)
    left, right = _ends(logits, cell, y, rows)  # (slots, M)
    number = np.arange(len(cell))
    best_left, best_right = left.argmax(axis=0), right.argmax(axis=0)
    top_left, top_right = left[best_left, number], right[best_right, number]
    lead_left = top_left - left[best_right, number]
    lead_right = top_right - right[best_left, number]
    one_class = best_left == best_right
    alone = ((left >= top_left - tolerance).sum(axis=0) == 1) \
        & ((right >= top_right - tolerance).sum(axis=0) == 1)
    parting = lead_left + lead_right
    at = lead_left / np.maximum(parting, tolerance)
    crossing = top_left + at * (right[best_left, number] - top_left)
    near = left + at * (right - left) > crossing - np.float32(peak * _CLEAR_RIVAL)
    only_two = (near.sum(axis=0) == 2) & (parting > peak * _CLEAR_SLOPE)
    clear = alone & (one_class | only_two)
    col = cells.col[cell]
    done, todo = np.flatnonzero(clear), np.flatnonzero(~clear)
    lines = _Lines(y[done], col[done], ids[best_left[done], cell[done]],
                   ids[best_right[done], cell[done]], lead_left[done], lead_right[done],
                   clear[done])
    return lines, _Unclear(y[todo], col[todo], ids[:, cell[todo]], left[:, todo], right[:, todo])


def _slots(corners: np.ndarray, keep: np.ndarray, nothing: np.float32
           ) -> Tuple[np.ndarray, np.ndarray]:
    """Return ids (slots, N) and logits (slots, 4, N) of each cell's candidates, ids ascending."""
    cell, class_id = np.nonzero(keep.T)
    count = keep.sum(axis=0)
    slot = np.arange(len(cell)) - (np.cumsum(count) - count)[cell]
    ids = np.zeros((int(count.max()), keep.shape[1]), np.uint8)
    ids[slot, cell] = class_id
    logits = np.full((len(ids), 4, keep.shape[1]), nothing, np.float32)
    logits[slot, :, cell] = corners[class_id, :, cell]
    return ids, logits


def _lines_of(cells: _Cells, rows: Axis) -> Tuple[np.ndarray, np.ndarray]:
    """Return, for each line of the cells, the number of its cell and its y, (M,) each."""
    return _expand(rows.start_px[cells.row], rows.size_px[cells.row])


def _expand(start: np.ndarray, size: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the ranges [start, start + size) one after another: owner and value of each item."""
    owner = np.repeat(np.arange(len(size)), size)
    shift = start - (np.cumsum(size) - size)
    return owner, np.arange(len(owner)) + shift[owner]


def _ends(values: np.ndarray, cell: np.ndarray, y: np.ndarray, rows: Axis
          ) -> Tuple[np.ndarray, np.ndarray]:
    """Return corner values (..., 4, N) interpolated to the left and right ends of lines (M,)."""
    w_above, w_below = rows.in_low[y], rows.in_high[y]
    left, right = (values[..., above, :].take(cell, axis=-1) * w_above
                   + values[..., above + 2, :].take(cell, axis=-1) * w_below
                   for above in (0, 1))
    return left, right


def _draw_lines(mask_HW: np.ndarray, lines: _Lines, cols: Axis, tolerance: np.float32) -> _Pixels:
    """Draw lines of one or two classes; return the pixels too close to call."""
    start, size = cols.start_px[lines.col], cols.size_px[lines.col]
    at = lines.lead_left / np.maximum(lines.lead_left + lines.lead_right, tolerance)
    split = np.ceil((at - cols.start_at[lines.col]) * cols.px_per_cell).astype(np.intp)
    split = np.minimum(np.maximum(split, 0), size)
    # Both neighbours of the crossing must be beyond doubt; then so are all pixels behind them.
    before, after = start + np.maximum(split - 1, 0), start + np.minimum(split, size - 1)
    lead_before, lead_after = (
        lines.lead_left * cols.in_low[x] - lines.lead_right * cols.in_high[x]
        for x in (before, after))
    sure = (lines.left == lines.right) | (((split == 0) | (lead_before > tolerance))
                                          & ((split == size) | (lead_after < -tolerance)))
    _draw_runs(mask_HW, lines.y * mask_HW.shape[1] + start, size, split, lines.left, lines.right)
    return _draw_closely(mask_HW, lines.pick(np.flatnonzero(~(sure & lines.sure))), cols,
                         tolerance)


def _draw_runs(mask_HW: np.ndarray, place: np.ndarray, size: np.ndarray, split: np.ndarray,
               left: np.ndarray, right: np.ndarray) -> None:
    """Write runs of `size` pixels from the flat index `place` on: `split` left, then right."""
    widths = np.flatnonzero(np.bincount(size)).tolist()
    for width in widths:
        if len(widths) > 1:
            some = np.flatnonzero(size == width)
            runs = [column[some] for column in (place, split, left, right)]
        else:
            runs = [place, split, left, right]
        # Row k of `steps` is k ones, then zeros: left class where one, right class where zero.
        steps = np.tri(width + 1, width, -1, dtype=np.uint8)
        drawn = steps.take(runs[1], axis=0)
        drawn *= (runs[2] - runs[3])[:, None]
        drawn += runs[3][:, None]
        # Whole runs at once: every place of the mask as the begin of an item of `width` bytes.
        item = np.dtype((np.void, width))
        places = np.ndarray((mask_HW.size - width + 1,), item, mask_HW, 0, (1,))
        places[runs[0]] = drawn.view(item)[:, 0]


def _draw_closely(mask_HW: np.ndarray, lines: _Lines, cols: Axis, tolerance: np.float32
                  ) -> _Pixels:
    """Draw lines by the sign of the lead at each pixel; return the pixels too close to call."""
    line, x = _expand(cols.start_px[lines.col], cols.size_px[lines.col])
    y, left, right = lines.y[line], lines.left[line], lines.right[line]
    lead_right = np.where(left == right, lines.lead_right[line], -lines.lead_right[line])
    lead = lines.lead_left[line] * cols.in_low[x] + lead_right * cols.in_high[x]
    mask_HW[y, x] = np.where(lead > 0, left, right)
    close = np.abs(lead) <= tolerance
    return y[close], x[close]


def _draw_pixelwise(mask_HW: np.ndarray, lines: _Unclear, cols: Axis, tolerance: np.float32
                    ) -> _Pixels:
    """Draw lines by the best candidate of each pixel; return the pixels too close to call."""
    line, x = _expand(cols.start_px[lines.col], cols.size_px[lines.col])
    y = lines.y[line]
    undecided = np.zeros(len(x), bool)
    step = _VALUES_AT_ONCE // len(lines.ids)
    for begin in range(0, len(x), step):
        part = slice(begin, begin + step)
        logits = lines.left.take(line[part], axis=1) * cols.in_low[x[part]] \
            + lines.right.take(line[part], axis=1) * cols.in_high[x[part]]
        mask_HW[y[part], x[part]] = lines.ids[logits.argmax(axis=0), line[part]]
        undecided[part] = (logits >= logits.max(axis=0) - tolerance).sum(axis=0) > 1
    return y[undecided], x[undecided]
