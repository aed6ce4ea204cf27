# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Results put together: what belongs to one model, what are seeds of one, what comes from what."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
import json
from pathlib import Path
import re
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple, TypeVar

from evit_seg.core.errors import InputError
from offline_train.config import config_to_dict
from offline_train.reporting.records import Bench, BundleRef, DataKey, Evaluation
from offline_train.reporting.runs import Collection, Run

Item = TypeVar('Item')
Key = TypeVar('Key')


@dataclass(frozen=True)
class Entry:
    """One model at one precision, with whatever was measured of it; a bare run has no bundle."""

    name: str
    run: Optional[Run]
    bundle: Optional[BundleRef]
    evaluations: Tuple[Evaluation, ...] = ()
    benches: Tuple[Bench, ...] = ()

    @property
    def label(self) -> str:
        """Name for figures: with the precision if it is not the plain one."""
        return self.name if self.precision in ('', 'fp32') else f'{self.name} {self.precision}'

    @property
    def network(self) -> str:
        """Name of the network in the run's configuration, '' without a run."""
        return self.run.config.model.name if self.run else ''

    @property
    def precision(self) -> str:
        """Precision of the bundle, '' for a run without one."""
        return self.bundle.precision if self.bundle else ''

    def on(self, data: DataKey) -> Optional[Evaluation]:
        """Return the scores on that data, None if it was not evaluated there."""
        return next((e for e in self.evaluations if e.data == data), None)


@dataclass(frozen=True)
class Arm:
    """Entries that differ in nothing but run.seed; most often one."""

    label: str
    entries: Tuple[Entry, ...]

    @property
    def seeds(self) -> Tuple[int, ...]:
        """Seeds of its runs."""
        return tuple(sorted(e.run.config.run.seed for e in self.entries if e.run))


def join(collection: Collection) -> List[Entry]:
    """
    Return one entry per bundle and precision, and one per run without results.

    Results join by the bundle's sha256 and precision. InputError if two runs claim one bundle, or
    one bundle has two different results on the same data.
    """
    keyed: Dict[Tuple[str, str], Entry] = {}
    results: List[Tuple[Evaluation | Bench, Optional[Run]]] = [*collection.evaluations,
                                                               *collection.benches]
    for result, run in results:
        ref = result.bundle
        entry = keyed.get((ref.sha256, ref.precision)) or Entry('', run, ref)
        if run and entry.run and run.path != entry.run.path:
            raise InputError(f'{result.path}: is about bundle {ref.name!r} ({ref.sha256[:12]}), '
                             f'which results below {entry.run.path} are about too; keep the '
                             'results of a bundle under the one run it comes from')
        known = entry.bundle or ref
        bundle = replace(known,
                         parameters=ref.parameters if known.parameters is None
                         else known.parameters,
                         gmacs=ref.gmacs if known.gmacs is None else known.gmacs)
        if isinstance(result, Evaluation):
            entry = replace(entry, evaluations=_with_evaluation(entry, result))
        else:
            entry = replace(entry, benches=(*entry.benches, result))
        keyed[ref.sha256, ref.precision] = replace(entry, run=entry.run or run, bundle=bundle)
    entries = []
    for run in collection.runs:
        mine = [e for e in keyed.values() if e.run is run]
        entries += sorted(mine, key=_precision_order) or [Entry('', run, None)]
    return _named([*entries, *(e for e in keyed.values() if e.run is None)])


def _with_evaluation(entry: Entry, result: Evaluation) -> Tuple[Evaluation, ...]:
    before = entry.on(result.data)
    if before is None:
        return (*entry.evaluations, result)
    if replace(before, path=result.path, bundle=result.bundle) != result:
        raise InputError(f'{result.path}: scores bundle {result.bundle.name!r} on {result.data} '
                         f'otherwise than {before.path} does; move the stale one away')
    return entry.evaluations


def _precision_order(entry: Entry) -> Tuple[str, int]:
    order = ('fp32', 'fp16', 'int8')
    known = order.index(entry.precision) if entry.precision in order else len(order)
    return (entry.bundle.name if entry.bundle else '', known)


def _named(entries: List[Entry]) -> List[Entry]:
    """Name entries by run or bundle; where that is not enough by hash as well."""
    names = []
    for entry in entries:
        bundle = entry.bundle.name if entry.bundle else ''
        name = entry.run.name if entry.run else bundle
        names.append(f'{name}/{bundle}' if entry.run and _several(entries, entry) else name)
    counts = Counter((name, e.precision) for name, e in zip(names, entries, strict=True))
    return [replace(e, name=f'{name} {e.bundle.sha256[:8]}'
                    if e.bundle and counts[name, e.precision] > 1 else name)
            for name, e in zip(names, entries, strict=True)]


def _several(entries: Iterable[Entry], entry: Entry) -> bool:
    return len({e.bundle.sha256 for e in entries if e.bundle and e.run is entry.run}) > 1


def arms(entries: Sequence[Entry]) -> List[Arm]:
    """Return the entries by everything but run.seed, in the order they come."""
    groups = list(grouped(entries, lambda e: _arm_key(e, entries)).values())
    named = [replace(group[0], name=_common_name([e.name for e in group])).label
             for group in groups]
    counts = Counter(named)
    return [Arm(label if counts[label] == 1 else ', '.join(e.label for e in group), tuple(group))
            for label, group in zip(named, groups, strict=True)]


def run_arms(runs: Sequence[Run]) -> List[Arm]:
    """Return the runs themselves by everything but run.seed."""
    return arms([Entry(run.name, run, None) for run in runs])


def _arm_key(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return what seeds of one model share; several bundles of one run are never seeds."""
    sha256 = entry.bundle.sha256 if entry.bundle else ''
    if entry.run is None or _several(entries, entry):
        return f'{sha256} {entry.precision}'
    plain = config_to_dict(entry.run.config)
    plain['run'].pop('seed')
    return f'{json.dumps(plain, sort_keys=True)} {entry.precision}'


def _common_name(names: Sequence[str]) -> str:
    """Return what names such as kd_seed1 and kd_seed2 begin with: kd."""
    if len(names) == 1:
        return names[0]
    same = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
    common = names[0][:(*same, False).index(False)].rstrip('0123456789')
    return re.sub(r'[ _./-]+(seed|s)?[ _./-]*$', '', common) or names[0]


def data_keys(entries: Iterable[Entry]) -> List[DataKey]:
    """Return all data that something was evaluated on, in the order of their names."""
    keys = {e.data for entry in entries for e in entry.evaluations}
    return sorted(keys, key=lambda k: (str(k), k.masks_sha256))


def families(entries: Sequence[Entry], runs: Sequence[Run]) -> List[Tuple[str, List[Entry]]]:
    """
    Return the variants of one network: a run at each precision, and the runs that start from it.

    Only families of two or more; each by the name of the run or bundle it goes back to.
    """
    found = grouped(entries, lambda e: root_of(e.run, runs) if e.run else
                    (e.bundle.sha256 if e.bundle else ''))
    named = []
    for root, members in found.items():
        name = root if any(e.run for e in members) else members[0].name
        if len(members) > 1:
            named.append((name, sorted(members, key=lambda e: (e.run is None or e.run.name
                                                               != root))))
    return named


def root_of(run: Run, runs: Sequence[Run]) -> str:
    """Return the name of the run that a run goes back to by model.initial, itself without one."""
    seen = {run.path}
    while run.config.model.initial:
        parent = find_run(run.config.model.initial, runs)
        if parent is None:
            return Path(run.config.model.initial).name
        if parent.path in seen:
            raise InputError(f'{parent.path}/config.yaml: model.initial leads back to itself')
        seen.add(parent.path)
        run = parent
    return run.name


def find_run(initial: str, runs: Sequence[Run]) -> Optional[Run]:
    """Return the run that a model.initial means: of that path, or the only one of that name."""
    path = Path(initial)
    exact = [run for run in runs if run.path == path.resolve()]
    alike = [run for run in runs if run.path.name == path.name]
    return exact[0] if exact else alike[0] if len(alike) == 1 else None


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> Dict[Key, List[Item]]:
    """Return items by a key, both in the order they come."""
    groups: Dict[Key, List[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
