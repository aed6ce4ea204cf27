# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The first part of the report: were the gates held, and one line of numbers per bundle."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evit_seg.replay.page.blocks import (
    amount,
    Block,
    Card,
    Cards,
    Cell,
    cells,
    clock,
    Column,
    columns,
    joined,
    MISSING,
    number,
    percent,
    Section,
    Table,
    Text,
    Verdict,
)
from evit_seg.replay.page.source import (
    Bundle,
    event_rows,
    headline_class,
    judged_alerts,
    part,
    parts,
    row_of,
    Source,
)


def summary(source: Source) -> Section:
    """Return the verdict and the summary."""
    blocks = [*_verdict(source), *_failed(source), *_truth(source)]
    slug = headline_class(source)
    if len(source.bundles) == 1:
        blocks.append(Cards(tuple(_cards(source, source.bundles[0], slug))))
    elif source.bundles:
        blocks.append(_side_by_side(source, slug))
    blocks += _comparison(source)
    return Section('summary', 'Verdict', tuple(blocks))


def _verdict(source: Source) -> Iterator[Block]:
    gates = parts(source.report, 'gates')
    if not gates:
        yield Verdict('none', 'No gates were set: the numbers below are for you to judge.')
        return
    lost = [gate for gate in gates if not gate.get('held')]
    models = list(dict.fromkeys(_gate_model(source, gate) for gate in gates))
    several = len(models) > 1
    if not lost:
        yield Verdict('held', f'{"The gate was" if len(gates) == 1 else "All gates were"} held.')
    elif several:
        yield Verdict('failed', ' '.join(_of_model(model, [
            gate for gate in gates if _gate_model(source, gate) == model]) for model in models))
    else:
        yield Verdict('failed', f'{len(lost)} of {amount(len(gates), "gate")} not held: do not '
                                'fly this before you know why.')
    rows = []
    for gate in gates:
        held = bool(gate.get('held'))
        relation = {'>=': '≥', '<=': '≤'}.get(str(gate.get('relation')), '')
        got = MISSING if gate.get('got') is None else _value(gate['got'])
        why = f' ({gate["why"]})' if gate.get('why') else ''
        rows.append(cells(
            *([_gate_model(source, gate)] if several else []), str(gate.get('gate')),
            f'{relation} {_value(gate.get("wanted"))}'.strip(), got,
            Cell(('✓ held' if held else '✗ not held') + why, state='good' if held else 'bad')))
    titles = (*(['bundle'] if several else []), 'gate', 'wanted', 'got', '')
    yield Table('', tuple(Column(title, title in ('wanted', 'got')) for title in titles),
                tuple(rows))


def _gate_model(source: Source, gate: Mapping[str, Any]) -> str:
    """Return the bundle of a gate, as it was named where no bag gave it a run."""
    model = str(gate.get('model') or MISSING)
    return source.arguments.get(model, model)


def _of_model(model: str, gates: list[Mapping[str, Any]]) -> str:
    lost = sum(not gate.get('held') for gate in gates)
    return f'{model}: {lost} of {amount(len(gates), "gate")} not held.' if lost \
        else f'{model}: {"the gate was" if len(gates) == 1 else "all gates were"} held.'


def _value(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _failed(source: Source) -> Iterator[Block]:
    for entry in parts(source.report, 'failed'):
        model = f' with {entry["model"]}' if entry.get('model') else ''
        bag, reason = str(entry.get('bag')), str(entry.get('reason'))
        yield Text(f'Not evaluated{model}: {reason if bag in reason else f"{bag}: {reason}"}',
                   'warning')


def _truth(source: Source) -> Iterator[Block]:
    """Say what is not known; per bag, as one may have labels and the next none."""
    for bag in source.bags:
        run = source.runs_of(bag)[0]
        masks = bool(run.report.get('scores'))
        where = f' for {bag}' if len(source.bags) > 1 else ''
        if not run.has_truth:
            yield Text(f'No ground truth{where}: nobody knows here whether the masks and alerts '
                       'are right. What follows is what the model said, how steadily and how '
                       'fast.', 'warning')
        elif not masks:
            yield Text(f'No label masks{where}: no mIoU. The alerts are compared with the '
                       'annotated events.', 'warning')
        elif not any(row.get('recall') is not None or row.get('annotated')
                     for row in event_rows(run.report)):
            yield Text(f'No annotated events{where}: masks are scored, but whether an alert was '
                       'right or false is not.', 'warning')


def _cards(source: Source, bundle: Bundle, slug: str | None) -> Iterator[Card]:
    for title, value, hint in _measures(source, bundle, slug):
        yield Card(title, value, hint)


def _measures(source: Source, bundle: Bundle, slug: str | None
              ) -> Iterator[tuple[str, str, str]]:
    """Yield (what, value, what to know); the same rows for every bundle."""
    pooled = bundle.pooled
    scores = part(pooled, 'scores')
    yield ('mIoU', number(part(scores, 'dataset', 'miou')),
           f'pixel accuracy {percent(part(scores, "dataset", "accuracy"))}, '
           f'{amount(part(scores, "images") or 0, "frame")}' if scores else 'no ground truth')
    if slug is not None:
        yield from _alert_measures(source, bundle, slug)
    yield _speed(bundle)
    counts = [part(run.report, 'counts') or {} for run in bundle.runs]
    if source.live:
        answered, sent = (sum(c.get(key) or 0 for c in counts) for key in ('answered', 'sent'))
        yield ('Frames answered', f'{answered} of {sent}',
               f'{sent - answered} without an answer' if sent > answered else 'none lost')
    else:
        done, all_of = (sum(c.get(key) or 0 for c in counts) for key in ('processed', 'images'))
        bad = sum(c.get('malformed') or 0 for c in counts)
        yield ('Frames', str(done), f'of {all_of}, {bad} malformed' if bad else 'all of them'
               if done == all_of else f'of {all_of}')


def _alert_measures(source: Source, bundle: Bundle, slug: str
                    ) -> Iterator[tuple[str, str, str]]:
    name = source.name(slug)
    row = row_of(list(event_rows(bundle.pooled)), slug) or {}
    if row.get('appearances') is None:
        yield f'{name} recall', MISSING, 'no ground truth'
        if not source.live:
            yield f'{name} time to alert', MISSING, 'no ground truth'
        yield (f'{name} alerts per minute', number(row.get('alerts_per_min'), 1),
               f'{amount(row.get("alerts") or 0, "alert")}; true or false is not known')
        return
    yield (f'{name} recall', percent(row.get('recall'), 0),
           f'{row.get("hits")} of {amount(row["appearances"], "appearance")}')
    wait = row.get('time_to_alert_s') or {}
    already = row.get('already_on') or 0
    hint = f'median; slowest {clock(wait.get("max"))}' if wait.get('max') is not None \
        else 'not measured'
    if not source.live:
        yield (f'{name} time to alert', clock(wait.get('median')),
               hint + (f'; {already} already on' if already else ''))
    yield (f'{name} false alerts per minute', number(row.get('false_alerts_per_min'), 2),
           f'{row.get("false_alerts")} of {amount(judged_alerts(bundle, slug), "alert")}'
           + (f'; on for {row["idle_s"]:.0f} s with none in view' if row.get('idle_s') else ''))


def _speed(bundle: Bundle) -> tuple[str, str, str]:
    speeds = [part(run.report, 'timing', 'frames_per_s') for run in bundle.runs]
    known = [speed for speed in speeds if speed is not None]
    if not known:
        return 'Frames per second', MISSING, ''
    pooled = part(bundle.pooled, 'timing', 'frames_per_s')
    tails = [part(run.report, 'timing', 'stages_ms', 'total', 'p95')
             or part(run.report, 'timing', 'latency_ms', 'p95') for run in bundle.runs]
    slow = max((tail for tail in tails if tail is not None), default=None)
    return ('Frames per second', number(pooled or sum(known) / len(known), 1),
            f'on this machine; p95 {slow:.0f} ms a frame' if slow is not None
            else 'on this machine')


def _side_by_side(source: Source, slug: str | None) -> Table:
    by_bundle = [list(_measures(source, bundle, slug)) for bundle in source.bundles]
    titles = list(dict.fromkeys(title for rows in by_bundle for title, _, _ in rows))
    rows = []
    for title in titles:
        found = [next(((value, hint) for what, value, hint in measures if what == title),
                      (MISSING, '')) for measures in by_bundle]
        rows.append(cells(title, *(Cell(value, hint=hint) for value, hint in found)))
    return Table('Bundles side by side', (
        Column(''), *(Column(bundle.label) for bundle in source.bundles)),
        tuple(rows))


def _comparison(source: Source) -> Iterator[Block]:
    """Say whether the node raised what bag_eval raises, in a report of live."""
    compared = part(source.report, 'comparison')
    if compared is None:
        return
    if not compared.get('comparable'):
        why = joined([str(reason) for reason in parts(compared, 'why')])
        yield Text(f'Not comparable with bag_eval{": " + why if why else "."}', 'warning')
    elif compared.get('same_alerts'):
        yield Text('The node raised the same alerts as bag_eval does on this bag.')
    else:
        rows = tuple(cells(source.name(str(row.get('class'))), clock(row.get('live_s')),
                           clock(row.get('bag_eval_s')),
                           MISSING if row.get('frames_apart') is None
                           else str(row['frames_apart']))
                     for row in parts(compared, 'differences'))
        yield Text('The node did not raise the same alerts as bag_eval does on this bag.',
                   'warning')
        yield Table('', columns('class', 'live', 'bag_eval', 'frames apart'), rows)
