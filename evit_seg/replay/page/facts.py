# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the numbers were made with: bags, models, rules, machine; notes, and how to repeat it."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evit_seg.replay.page.blocks import (
    Block,
    cells,
    clock,
    Code,
    columns,
    Facts,
    Heading,
    MISSING,
    Section,
    sentence,
    Table,
    Text,
)
from evit_seg.replay.page.source import part, parts, Source

RULE_KEYS = ('min_pixels', 'min_confidence', 'confirm_k', 'confirm_n', 'clear_after_s',
             'cooldown_s', 'logit_bias')
MACHINE_KEYS = {'memory_mb': 'memory, MB', 'power_mode': 'power mode', 'python': 'Python',
                'numpy': 'NumPy', 'onnxruntime': 'ONNX Runtime', 'opencv': 'OpenCV'}


def facts(source: Source) -> Section:
    """Return where the numbers come from."""
    blocks: list[Block] = [*_bags(source), *_models(source), *_rules(source), *_machine(source)]
    return Section('facts', 'Bags, models, rules, machine', tuple(blocks))


def notes(source: Source) -> Section:
    """Return what the user should know, and how to make the report again."""
    blocks: list[Block] = []
    for run in source.runs:
        label = f'{run.label}: ' if len(source.runs) > 1 else ''
        blocks += [Text(label + sentence(str(note))) for note in parts(run.report, 'notes')]
        damage = part(run.report, 'bag', 'damage')
        blocks += [Text(label + sentence(str(damage)), 'warning')] if damage else []
    if not blocks:
        blocks.append(Text('No notes.'))
    if source.command:
        again = 'To play it again:' if source.live else 'The same numbers again, but for times:'
        blocks += [Text(again), Code(source.command)]
    return Section('notes', 'Notes and how to repeat it', tuple(blocks))


def _bags(source: Source) -> Iterator[Block]:
    rows = []
    for bag in source.bags:
        content = part(source.runs_of(bag)[0].report, 'bag') or {}
        truth = content.get('truth_topic') or content.get('truth_folder') \
            or content.get('event_times') or 'none'
        rows.append(cells(bag, clock(content.get('duration_s')), _text(content.get('image_topic')),
                          _text(content.get('encoding')), str(truth), _text(content.get('clock')),
                          _text(content.get('sha256'))[:16]))
    if rows:
        yield Table('Bags', columns('bag', 'length', 'images', 'encoding', 'truth', 'clock',
                                    'sha256', numbers_from=99), tuple(rows))


def _models(source: Source) -> Iterator[Block]:
    rows = []
    for bundle in source.bundles:
        model = part(bundle.runs[0].report, 'model') or {}
        size = model.get('input_hw')
        rows.append(cells(
            bundle.label, _text(model.get('engine')), _text(model.get('provider')),
            _text(model.get('precision')),
            f'{size[1]} × {size[0]}' if size else _text(model.get('network input')),
            _text(model.get('threads')), _text(model.get('sha256'))[:16]))
    if rows:
        yield Table('Bundles', columns('bundle', 'engine', 'provider', 'precision', 'input',
                                       'threads', 'sha256', numbers_from=99), tuple(rows))


def _text(value: Any) -> str:
    return MISSING if value is None or value == '' else str(value)


def _rules(source: Source) -> Iterator[Block]:
    seen: list[Any] = []
    for bundle in source.bundles:
        rules = parts(bundle.runs[0].report, 'rules')
        if not rules or rules in seen:
            continue
        seen.append(rules)
        title = 'Alert rules' if len(seen) == 1 else f'Alert rules of {bundle.label}'
        yield Table(title, columns('class', *RULE_KEYS), tuple(
            cells(source.name(str(rule['slug'])),
                  *(f'{rule[key]:g}' if key in rule else MISSING for key in RULE_KEYS))
            for rule in rules))


def _machine(source: Source) -> Iterator[Block]:
    machines: list[Mapping[str, Any]] = []
    for run in source.runs:
        machine = part(run.report, 'timing', 'machine')
        steady = {key: value for key, value in (machine or {}).items() if key != 'load_1min'}
        if steady and steady not in machines:
            machines.append(steady)
    for machine in machines:
        yield Heading('Machine')
        yield Facts(tuple((MACHINE_KEYS.get(key, key), str(value))
                          for key, value in machine.items() if value is not None))
