# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The JSON of bag_eval (schema 2) or of live, ordered for people: bundles, bags and their runs.

Any part of it may be absent or null: a run that has no position has no map.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HEADLINE_CLASS = 'person'
"""The class the summary is about where it has a rule: people are who the flight is for."""


def part(content: Any, *keys: str) -> Any:
    """Return the value under nested keys; None where one of them is absent or null."""
    for key in keys:
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    return content


def parts(content: Any, *keys: str) -> list[Any]:
    """Return the list under nested keys, an empty one where there is none."""
    found = part(content, *keys)
    return list(found) if isinstance(found, (list, tuple)) else []


@dataclass(frozen=True)
class Run:
    """One bundle over one bag; `label` names both as far as the report has several."""

    bundle: str
    bag: str
    label: str
    report: Mapping[str, Any]

    @property
    def has_truth(self) -> bool:
        """Return whether anything in the run could be compared with a truth."""
        return bool(self.report.get('scores')) or bool(part(self.report, 'events', 'truth')) \
            or bool(self.report.get('appearances'))

    @property
    def length_s(self) -> float:
        """Return how long the flight is."""
        return float(part(self.report, 'bag', 'duration_s') or 0.0)


@dataclass(frozen=True)
class Bundle:
    """One bundle: `pooled` is what was summed over its bags, shaped like a run's report."""

    label: str
    pooled: Mapping[str, Any]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Source:
    """All of a report."""

    report: Mapping[str, Any]
    bundles: tuple[Bundle, ...]
    bags: tuple[str, ...]
    names: Mapping[str, str]
    colours: Mapping[str, str]
    arguments: Mapping[str, str]
    """The label of each bundle as it was named on the command line, which gates go by."""
    command: str | None

    @property
    def live(self) -> bool:
        """Return whether the real node answered, not bag_eval."""
        return self.report.get('tool') == 'live'

    @property
    def runs(self) -> list[Run]:
        """Return all runs, by bundle."""
        return [run for bundle in self.bundles for run in bundle.runs]

    def runs_of(self, bag: str) -> list[Run]:
        """Return the runs over one bag, by bundle."""
        return [run for run in self.runs if run.bag == bag]

    def name(self, slug: str) -> str:
        """Return a class's name for people."""
        return self.names.get(slug, slug.replace('_', ' '))

    def colour(self, slug: str) -> str:
        """Return a class's colour in masks, '#rrggbb'."""
        return self.colours.get(slug, '#808080')


def read_source(report: Mapping[str, Any], command: str | None) -> Source:
    """Return the report in order."""
    reports = [run for run in parts(report, 'runs') if isinstance(run, Mapping)] \
        if 'runs' in report else [report]
    models = list(dict.fromkeys(_model_key(run) for run in reports))
    bags = list(dict.fromkeys(_bag_key(run) for run in reports))
    model_labels, bag_labels = _labels(models), _labels(bags)
    pooled = {_model_key({'model': entry}): entry for entry in parts(report, 'models')}
    bundles = []
    for model in models:
        runs = tuple(_run(run, model_labels[model], bag_labels[_bag_key(run)],
                          len(models), len(bags))
                     for run in reports if _model_key(run) == model)
        own = runs[0].report if len(runs) == 1 else {}
        bundles.append(Bundle(model_labels[model], {**own, **_without_nulls(pooled.get(model))},
                              runs))
    arguments = {str(entry['model']): model_labels[key] for key, entry in pooled.items()
                 if entry.get('model') and key in model_labels}
    names, colours = {}, {}
    for row in (row for run in reports for row in parts(run, 'model', 'label_map')):
        names[row['slug']] = str(row['name']).replace('_', ' ')
        red, green, blue = (int(value) for value in row['colour'])
        colours[row['slug']] = f'#{red:02x}{green:02x}{blue:02x}'
    return Source(report, tuple(bundles), tuple(bag_labels[bag] for bag in bags), names, colours,
                  arguments, command)


def _without_nulls(entry: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (entry or {}).items() if value is not None}


def _run(report: Mapping[str, Any], bundle: str, bag: str, bundles: int, bags: int) -> Run:
    words = [word for word, several in ((bundle, bundles > 1), (bag, bags > 1)) if several]
    return Run(bundle, bag, ', '.join(words) or bundle, report)


def _model_key(report: Mapping[str, Any]) -> tuple[str, str]:
    return _key(report, 'model', 'unnamed bundle')


def _bag_key(report: Mapping[str, Any]) -> tuple[str, str]:
    return _key(report, 'bag', 'unnamed bag')


def _key(report: Mapping[str, Any], what: str, unnamed: str) -> tuple[str, str]:
    return str(part(report, what, 'name') or unnamed), str(part(report, what, 'sha256') or '')


def _labels(keys: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return names; where two things share one, with the first signs of their checksums."""
    names = [name for name, _ in keys]
    return {(name, sha256): name if names.count(name) == 1 else f'{name} ({sha256[:8]})'
            for name, sha256 in keys}


def alert_classes(source: Source) -> list[str]:
    """Return the slugs of the classes with alert rules, in the order of the rules."""
    return list(dict.fromkeys(str(rule['slug']) for run in source.runs
                              for rule in parts(run.report, 'rules')))


def headline_class(source: Source) -> str | None:
    """Return the class the summary is about."""
    slugs = alert_classes(source)
    return HEADLINE_CLASS if HEADLINE_CLASS in slugs else next(iter(slugs), None)


def event_rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Yield what is known of each class's alerts, in the words of the section `events`.

    From `appearances` where there is no such section, as in the reports of live.
    """
    rows = parts(report, 'events', 'classes')
    if rows:
        yield from rows
        return
    for row in parts(report, 'appearances'):
        found = row['appearances']
        yield {'slug': row['slug'], 'annotated': True, 'hits': row['hits'],
               'recall': row['recall'], 'alerts': row['active_spans'],
               'appearances': found if isinstance(found, int) else len(found),
               'false_alerts': row['false_alerts'], 'on_s': row['active_s'],
               'false_alerts_per_min': row['false_alerts_per_min'],
               'idle_s': row['idle_active_s']}


def row_of(rows: list[Any], slug: str) -> Mapping[str, Any] | None:
    """Return the row of one class, None where there is none."""
    return next((row for row in rows if row.get('slug') == slug), None)


def in_view(run: Run, slug: str) -> list[tuple[float, float]] | None:
    """Return when the class truly was in view; None where nobody knows."""
    spans = part(run.report, 'frames', 'classes', slug, 'in_view')
    if spans is None:
        row = row_of(list(event_rows(run.report)), slug)
        if row is None or not row.get('annotated') or row.get('spans') is None:
            return None
        spans = row['spans']
    return [(float(span['from_s']), float(span['to_s'])) for span in spans]


def judged_alerts(bundle: Bundle, slug: str) -> int:
    """Return how many alerts of a class there were in the bags whose events are annotated."""
    rows = (row_of(list(event_rows(run.report)), slug) for run in bundle.runs)
    return sum(row.get('alerts') or 0 for row in rows if row and row.get('annotated'))
