# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Frames to look at: the worst ones with their pictures, and where two bundles disagree."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evit_seg.replay.page.blocks import (
    Block,
    cells,
    clock,
    Column,
    columns,
    Heading,
    number,
    percent,
    PictureRow,
    Pictures,
    Section,
    Table,
    Text,
)
from evit_seg.replay.page.source import Bundle, part, parts, Run, Source

SHOWN = 6
"""Worst frames of a bundle in the page, over all its bags."""
PICTURES = (('image', 'image'), ('truth', 'truth'), ('mask', 'mask'))


def look(source: Source) -> Section:
    """Return the worst frames of each bundle and the disagreements."""
    blocks: list[Block] = []
    for bundle in source.bundles:
        blocks += _worst(source, bundle)
    for entry in parts(source.report, 'disagreement'):
        blocks += _disagreement(source, entry)
    if not blocks:
        blocks.append(Text('No frames were kept.'))
    return Section('frames', 'Frames to look at', tuple(blocks))


def _worst(source: Source, bundle: Bundle) -> Iterator[Block]:
    found = [(run, frame) for run in bundle.runs for frame in parts(run.report, 'worst', 'frames')]
    if not found:
        return
    if len(source.bundles) > 1:
        yield Heading(f'Worst frames of {bundle.label}')
    by = dict.fromkeys(str(part(run.report, 'worst', 'by')) for run, _ in found)
    yield from (Text(f'Chosen by the {rule}. At most one of each second.', 'note') for rule in by)
    # Frames with truth come first: a score and a confidence are not the same scale.
    found.sort(key=lambda pair: (not part(pair[0].report, 'worst', 'truth'), pair[1]['score'],
                                 pair[0].bag, pair[1]['index']))
    slugs = [row['slug'] for row in parts(bundle.runs[0].report, 'model', 'label_map')]
    legend = tuple((source.name(slug), source.colour(slug)) for slug in slugs)
    yield Pictures(tuple(_row(source, run, frame) for run, frame in found[:SHOWN]),
                   (*legend, ('not labelled', '#000000')))


def _row(source: Source, run: Run, frame: Mapping[str, Any]) -> PictureRow:
    where = f'{run.bag}, ' if len(source.bags) > 1 else ''
    words = []
    if frame.get('ious'):
        words.append(f'mean IoU {number(frame["score"])}')
        poor = sorted((iou, slug) for slug, iou in frame['ious'].items() if iou < 0.7)
        words += [f'{source.name(slug)} {iou:.2f}' for iou, slug in poor[:4]]
    words.append(f'confidence {number(frame.get("confidence"))}')
    pictures = tuple((label, str(frame[key])) for key, label in PICTURES
                     if str(frame.get(key) or '').startswith('data:image/'))
    return PictureRow(f'{where}{clock(frame["t_s"], run.length_s)}, frame {frame["index"]}',
                      '; '.join(words), pictures)


def _disagreement(source: Source, entry: Mapping[str, Any]) -> Iterator[Block]:
    rows = []
    for frame in parts(entry, 'worst'):
        alone: dict[str, list[str]] = {}
        for row in parts(frame, 'seen_by_one'):
            alone.setdefault(str(row['by']), []).append(source.name(str(row['class'])))
        confused = [f'{source.name(str(row["a"]))} / {source.name(str(row["b"]))} '
                    f'{percent(row["share"])}' for row in parts(frame, 'confusion')[:2]]
        rows.append(cells(clock(frame.get('t_s')), str(frame.get('index')),
                          percent(frame.get('share')),
                          '; '.join(f'{by}: {", ".join(names)}' for by, names in alone.items()),
                          '; '.join(confused)))
    names = ' and '.join(str(name) for name in parts(entry, 'models'))
    where = f' on {entry.get("bag")}' if len(source.bags) > 1 else ''
    yield Heading(f'Where {names} disagree{where}')
    if part(entry, 'mean_share') is not None:
        yield Text(f'They disagree in {percent(entry["mean_share"])} of the pixels, over '
                   f'{entry.get("frames")} frames.')
    if rows:
        yield Table('', (Column('time'), *columns('frame', 'pixels that differ', numbers_from=0),
                         Column('alert classes that one alone saw', wraps=True),
                         Column('most often differ', wraps=True)), tuple(rows),
                    'The frames to look at first are on top.')
