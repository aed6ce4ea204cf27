# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The command `offline_train report`: the tables and figures of the paper, from run folders.

    report.md  report.html           everything; the page needs no other file
    table2.csv  table3.csv  classes.csv  objects.csv  seeds.csv
    figures/*.png, *.svg
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import slugify
from evit_seg.core.segmenter import Segmenter
from matplotlib.figure import Figure as Drawing
from offline_train.data.dataset import load_dataset
from offline_train.data.dataset_split import open_split
from offline_train.reporting import class_tables, compression, frontier, panels, seeds, tables
from offline_train.reporting.class_bars import draw_class_bars
from offline_train.reporting.curves import draw_curves
from offline_train.reporting.join import data_keys, Entry, grouped, join, run_arms
from offline_train.reporting.page import (
    Block,
    Figure,
    Heading,
    Paragraph,
    Row,
    Table,
    to_csv,
    to_markdown,
)
from offline_train.reporting.paper import load_papers, Paper
from offline_train.reporting.runs import Collection, read_collection
from offline_train.reporting.style import save
from offline_train.reporting.web import to_html

FIGURES = 'figures'
INTRODUCTION = (
    'Scores of different data, splits or compared sizes stand in different tables. A dash is '
    'something that was not measured; in the CSV files it is an empty cell.')
EPILOG = """
examples:
  offline_train report runs/upernet runs/upernet_kd --out report
  offline_train report runs --out report          # every run below a folder
  offline_train report laptop.json nano.json --out report
  offline_train report runs --out report --panels lpcv2023 LPCV val \\
      --bundles teacher=runs/swin/bundle/swin student=runs/kd/bundle/kd --crop 256

A run folder holds config.yaml, log.jsonl and, anywhere below it, the JSON files of `evaluate` and
`bench`; those of one bundle and precision are joined. A result belongs to the run folder it lies
in. Runs without results appear with dashes. The papers' numbers come from
config/paper_tables.yaml, matched by network, teacher or not, precision and (within 5 %) size.
"""
Drawn = Tuple[Figure, Drawing]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train report`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument('runs', type=Path, nargs='+', metavar='RUNS',
                        help='run folders, folders of them, or JSON files of evaluate and bench')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='new folder for the report')
    parser.add_argument('--title', default='Segmentation results', help='title of the report')
    pictures = parser.add_argument_group('pictures: image, truth and masks side by side')
    pictures.add_argument('--panels', nargs=3, metavar=('DATASET', 'ROOT', 'SPLIT'),
                          help='frames to show: a shipped data set or a YAML, its folder, a split')
    pictures.add_argument('--bundles', nargs='+', default=[], metavar='[TITLE=]BUNDLE',
                          help='a column each, such as teacher=runs/t/bundle')
    pictures.add_argument('--frames', type=int, nargs='+', default=[], metavar='INDEX',
                          help='frames by their place in the split, from 0')
    pictures.add_argument('--most', default=tables.PERSON, metavar='CLASS',
                          help='without --frames: those with most pixels of this class '
                               '(default %(default)s)')
    pictures.add_argument('--rows', type=int, default=4, metavar='N',
                          help='without --frames: how many (default %(default)s)')
    pictures.add_argument('--crop', type=int, default=0, metavar='PX',
                          help='draw a square of so many pixels around that class only; the '
                               'bundles still see the whole frame (default 0: whole frames)')


def main(args: argparse.Namespace) -> int:
    """Run `offline_train report`."""
    _check(args)
    collection = read_collection(args.runs)
    entries = join(collection)
    papers = load_papers()
    files: Dict[str, Tuple[Sequence[str], List[Row]]] = {}
    drawn: List[Drawn] = []
    blocks = _blocks(collection, entries, papers, files, drawn)
    if args.panels:
        blocks += [Heading('Pictures'), *_add(drawn, _pictures(args))]
    args.out.mkdir(parents=True, exist_ok=True)
    for figure, drawing in drawn:
        save(drawing, args.out / figure.stem, svg=figure.svg)
    for name, (columns, rows) in files.items():
        to_csv(args.out / name, columns, rows)
    for name, text in (('report.md', to_markdown(args.title, blocks)),
                       ('report.html', to_html(args.title, blocks, args.out))):
        (args.out / name).write_text(text, encoding='utf-8')
    print(f'{len(collection.runs)} runs, {len(collection.evaluations)} evaluations, '
          f'{len(collection.benches)} benches: {args.out / "report.html"}')
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f'--out: {args.out} holds something already and is not overwritten; '
                          'name a new folder')
    if bool(args.panels) != bool(args.bundles):
        raise ConfigError('--panels and --bundles: expected both or none; the one says which '
                          'frames, the other whose masks')
    for option, value, least in (('--rows', args.rows, 1), ('--crop', args.crop, 0)):
        if value < least:
            raise ConfigError(f'{option}: expected {least} or more, got {value!r}')


def _blocks(collection: Collection, entries: Sequence[Entry], papers: Dict[str, Paper],
            files: Dict[str, Tuple[Sequence[str], List[Row]]],
            drawn: List[Drawn]) -> List[Block]:
    """Return the report; rows for CSV go to `files`, drawings to `drawn`."""
    two, files_two = tables.table2(entries, papers['lpcv'])
    three, files_three = compression.table3(entries, collection.runs, papers['lpcv'])
    several, files_seeds = seeds.seed_tables(entries, collection.runs)
    files['table2.csv'] = (tables.TABLE2_KEYS, files_two)
    files['table3.csv'] = (compression.TABLE3_KEYS, files_three)
    files['classes.csv'] = (class_tables.CLASS_KEYS, class_tables.class_rows(entries))
    files['objects.csv'] = (class_tables.OBJECT_KEYS, class_tables.object_rows(entries))
    files['seeds.csv'] = (seeds.SEED_KEYS, files_seeds)
    blocks: List[Block] = [Paragraph(INTRODUCTION), Heading('Models'), *two]
    absent = tables.absent_networks(entries, papers['lpcv'])
    if absent:
        blocks.append(Paragraph("Rows of the paper's Table 2 without a run here: "
                                f'{", ".join(absent)}.'))
    energy = tables.energy_table(entries, papers['energy'])
    blocks += [energy] if energy else []
    blocks += _add(drawn, _frontiers(entries))
    for title, found in (('Seeds', several), ('Variants of one network', three)):
        blocks += [Heading(title), *found] if found else []
    by_class: List[Table] = class_tables.class_tables(entries)
    if by_class:
        blocks += [Heading('Classes'), *_add(drawn, _bars(entries)), *by_class]
    runs = seeds.run_table(collection.runs)
    if runs:
        blocks += [Heading('Training'), runs, *_add(drawn, _curves(collection))]
    return blocks


def _add(drawn: List[Drawn], found: Sequence[Drawn]) -> List[Block]:
    drawn += found
    return [figure for figure, _ in found]


def _frontiers(entries: Sequence[Entry]) -> List[Drawn]:
    found = []
    for number, (data, setup) in enumerate(frontier.measured_pairs(entries), start=1):
        points = frontier.points_of(entries, data, setup)
        caption = (f'mIoU on {data.short} against median latency on {setup}. Blue: no '
                   'model here is both faster and better. A bar spans the seeds of one model.')
        found.append((Figure(f'{FIGURES}/frontier_{number}_{slugify(data.name)}', caption),
                      frontier.draw_frontier(points, data.short, setup)))
    return found


def _bars(entries: Sequence[Entry]) -> List[Drawn]:
    found = []
    for number, data in enumerate(data_keys(entries), start=1):
        drawings = draw_class_bars(entries, data)
        for part, drawing in enumerate(drawings, start=1):
            stem = f'{FIGURES}/classes_{number}_{slugify(data.name)}'
            caption = f'IoU by class on {data}; rare classes in bold.'
            found.append((Figure(f'{stem}_{part}' if len(drawings) > 1 else stem, caption),
                          drawing))
    return found


def _curves(collection: Collection) -> List[Drawn]:
    found: List[Drawn] = []
    groups = grouped(run_arms(collection.runs), lambda a: seeds.validation_name(a.entries[0].run))
    for name, arms in groups.items():
        drawing = draw_curves(arms, name)
        if drawing is not None:
            caption = (f'Runs validated on {name}. Pale: as logged; strong: the moving mean over '
                       '5 % of the points. Losses of runs with other weights, crops or terms are '
                       'not comparable.')
            found.append((Figure(f'{FIGURES}/curves_{len(found) + 1}', caption), drawing))
    return found


def _pictures(args: argparse.Namespace) -> List[Drawn]:
    name, root, split_name = args.panels
    spec = load_dataset(name)
    split = open_split(spec, spec.at(root), split_name)
    indices = panels.choose_frames(spec, split, indices=args.frames, rows=args.rows,
                                   most=args.most)
    named = panels.named_bundles(args.bundles)
    segmenters = [Segmenter.open(bundle) for bundle in named.values()]
    rows = panels.panel_rows(spec, split, indices, segmenters, most=args.most, crop_px=args.crop)
    for segmenter in segmenters:
        segmenter.close()
    drawing = panels.draw_panels(rows, ['image', 'truth', *named], spec.label_map)
    chosen = 'frames chosen by hand' if args.frames else \
        f'the {len(indices)} frames with most pixels of {args.most}'
    caption = (f'{spec.name}, split {split.name}: {chosen}. Untinted: background or unlabelled. '
               'Dice is the LPCV Dice of the whole frame'
               f'{f", {args.crop} px of which are drawn" if args.crop else ""}.')
    return [(Figure(f'{FIGURES}/panels', caption, svg=False), drawing)]
