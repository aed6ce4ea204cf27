# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How right the masks are: per class, which class is taken for which, and by object size."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evit_seg.replay.page.blocks import (
    Block,
    Cell,
    cells,
    Column,
    columns,
    Folded,
    Heading,
    number,
    percent,
    Section,
    sentence,
    Table,
    Text,
)
from evit_seg.replay.page.source import alert_classes, Bundle, part, parts, row_of, Source
from evit_seg.replay.table import SMALLEST_SHARE


def classes(source: Source) -> Section:
    """Return the per-class tables and the confusion matrices."""
    blocks: list[Block] = []
    several = len(source.bundles) > 1
    if several and any(part(bundle.pooled, 'scores') for bundle in source.bundles):
        blocks.append(_compared(source))
    for bundle in source.bundles:
        table = _class_table(source, bundle)
        found: list[Block] = [table] if table else []
        found += _confusion(source, bundle)
        if several and found:
            blocks.append(Folded(f'{bundle.label}: classes and confusion', tuple(found)))
        else:
            blocks += found
    flicker = _flicker(source)
    if not blocks:
        blocks.append(Text('This report says nothing of classes.'))
    return Section('classes', 'Classes', (*blocks, *flicker))


def _scored(scores: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return parts(scores, 'classes')


def _share_of(bundle: Bundle, slug: str) -> float | None:
    return part(bundle.pooled, 'class_shares', slug)


def _compared(source: Source) -> Table:
    """Return the IoU of every class with each bundle, the best in bold."""
    rows = []
    slugs = list(dict.fromkeys(
        row['slug'] for bundle in source.bundles
        for row in _scored(part(bundle.pooled, 'scores')) if row['truth_px']))
    for slug in slugs:
        ious = [part(row_of(_scored(part(bundle.pooled, 'scores')), slug), 'iou')
                for bundle in source.bundles]
        best = max((iou for iou in ious if iou is not None), default=None)
        tied = sum(iou == best for iou in ious) > 1
        rows.append(cells(_named(source, slug), *(
            Cell(number(iou), bar=iou, state='good' if iou == best and not tied else '')
            if iou is not None else Cell(number(None)) for iou in ious)))
    means = [part(bundle.pooled, 'scores', 'dataset', 'miou') for bundle in source.bundles]
    rows.append(cells('mean (mIoU)', *(Cell(number(mean)) for mean in means)))
    return Table('IoU of each class', columns('class', *(b.label for b in source.bundles)),
                 tuple(rows))


def _class_table(source: Source, bundle: Bundle) -> Table | None:
    scores = part(bundle.pooled, 'scores')
    shares = part(bundle.pooled, 'class_shares') or {}
    flickers = {row['slug']: row.get('flicker') for row in
                parts(bundle.pooled, 'flicker', 'classes')}
    ending = (Column('flicker', True),) if flickers else ()
    if not scores:
        rows = [cells(_named(source, slug), Cell(percent(share), bar=share),
                      *([number(flickers.get(slug))] if flickers else []))
                for slug, share in shares.items() if share >= SMALLEST_SHARE]
        return Table('Share of the masks', (*columns('class', 'share'), *ending), tuple(rows),
                     'Classes below 0.05 % of the pixels are left out.') if rows else None
    total = max(1, part(scores, 'compared_px') or 0)
    rows = []
    for row in _scored(scores):
        share = shares.get(row['slug'])
        if not row['truth_px'] and (share or 0.0) < SMALLEST_SHARE:
            continue
        rows.append(cells(
            _named(source, row['slug']), percent(row['truth_px'] / total), percent(share),
            *(Cell(number(row[key]), bar=row[key]) if row[key] is not None
              else Cell(number(None)) for key in ('iou', 'dice', 'precision', 'recall')),
            *([number(flickers.get(row['slug']))] if flickers else [])))
    heads = columns('class', 'share of truth', 'share of masks', 'IoU', 'Dice', 'precision',
                    'recall')
    return Table('Each class', (*heads, *ending), tuple(rows))


def _named(source: Source, slug: str) -> Cell:
    return Cell(source.name(slug), swatch=source.colour(slug))


def _confusion(source: Source, bundle: Bundle) -> Iterator[Block]:
    matrix = parts(bundle.pooled, 'scores', 'totals', 'confusion')
    slugs = [row['slug'] for row in _scored(part(bundle.pooled, 'scores'))]
    if not matrix or len(matrix) != len(slugs):
        return
    total = sum(sum(row) for row in matrix)
    truths = [i for i, row in enumerate(matrix) if sum(row)]
    shown = [i for i in range(len(slugs))
             if i in truths or sum(row[i] for row in matrix) >= SMALLEST_SHARE * total]
    rows = []
    for i in truths:
        under = sum(matrix[i])
        rows.append((_named(source, slugs[i]),
                     *(_heat(matrix[i][j] / under) for j in shown)))
    yield Table('Which class is taken for which, % of the truth', (
        Column('truth ↓  mask →'), *(Column(source.name(slugs[j])) for j in shown)), tuple(rows),
        'Each row adds up to 100; the diagonal is the recall of the class in pixels. Classes '
        'that do not occur are left out.', 'matrix')


def _heat(share: float) -> Cell:
    text = '' if share < 0.0005 else '<1' if share < 0.005 else f'{share * 100:.0f}'
    return Cell(text, heat=share)


def _flicker(source: Source) -> Iterator[Block]:
    rows = []
    for slug in alert_classes(source):
        for bundle in source.bundles:
            row = row_of(parts(bundle.pooled, 'flicker', 'alert_classes'), slug)
            if row is None:
                continue
            words = [bundle.label] if len(source.bundles) > 1 else []
            rows.append(cells(
                _named(source, slug), *words, str(row.get('evidence_frames')),
                str(row.get('dropouts_1')), str(row.get('dropouts_2')),
                number(row.get('dropouts_per_min'), 2)))
    if rows:
        titles = ('class', *(['bundle'] if len(source.bundles) > 1 else []),
                  'frames with evidence', 'gaps of 1 frame', 'gaps of 2', 'gaps per minute')
        yield Table('How steadily the alert classes are seen',
                    columns(*titles, numbers_from=len(titles) - 4), tuple(rows))
    notes = dict.fromkeys(str(text) for run in source.runs
                          if (text := part(run.report, 'flicker', 'note')))
    yield from (Text(sentence(f'flicker: {note}'), 'note') for note in notes)
    for bundle in source.bundles:
        consistency = part(bundle.pooled, 'flicker', 'consistency')
        if consistency is not None:
            of = f' of {bundle.label}' if len(source.bundles) > 1 else ''
            yield Text(f'From frame to frame the masks{of} change where the truth changes, and '
                       f'stay where it stays, in {percent(consistency)} of the cells.', 'note')


def sizes(source: Source) -> Section:
    """Return recall by the size of the object."""
    blocks: list[Block] = []
    for bundle in source.bundles:
        section = part(bundle.pooled, 'sizes')
        if not parts(section, 'classes'):
            continue
        if len(source.bundles) > 1:
            blocks.append(Heading(bundle.label))
        blocks += _size_table(source, section, 'components', 'side', 'objects',
                              'Objects in single frames, by the side of a square of their area')
        blocks += _size_table(source, section, 'appearances', 'height', 'appearances',
                              'Appearances that raised an alert, by their greatest height')
        share = part(section, 'hit_share')
        if share is not None:
            blocks.append(Text(f'An object is found where {percent(share, 0)} of its pixels or '
                               'more are masked as its class.', 'note'))
        if part(section, 'note'):
            blocks.append(Text(sentence(str(section['note'])), 'note'))
    if not blocks:
        blocks.append(Text('How recall falls with the size of the object is not known: that '
                           'takes label masks or object boxes.'))
    return Section('sizes', 'By object size', tuple(blocks))


def _size_table(source: Source, section: Mapping[str, Any], key: str, measure: str, noun: str,
                title: str) -> Iterator[Table]:
    by_class = [(row['slug'], parts(row, key)) for row in parts(section, 'classes')]
    bins = next((bins for _, bins in by_class if bins), None)
    if bins is None:
        return
    heads = [_range(entry, measure) for entry in bins]
    rows = tuple(cells(_named(source, slug), *_size_cells(found, noun))
                 for slug, found in by_class
                 if any(entry.get(noun) for entry in found))
    if rows:
        yield Table(title, columns('class', *heads), rows)


def _size_cells(bins: Sequence[Mapping[str, Any]], noun: str) -> Iterator[Cell]:
    for entry in bins:
        if not entry.get(noun):
            yield Cell('')
        else:
            recall = entry.get('recall')
            yield Cell(f'{percent(recall, 0)} ({entry.get("hits")} of {entry[noun]})', bar=recall)


def _range(entry: Mapping[str, Any], measure: str) -> str:
    low, high = entry[f'{measure}_from_px'], entry[f'{measure}_to_px']
    return f'{low:g} px or more' if high is None else f'{low:g} to {high:g} px'
