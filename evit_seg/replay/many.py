# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Many bags through many bundles: every pair is a run, some of them at a time."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
from evit_seg.core.alerts import AlertRule
from evit_seg.core.bundle import find_bundle, open_bundle
from evit_seg.core.errors import ConfigError, EvitSegError, InputError
from evit_seg.core.labels import LabelMap
from evit_seg.core.segmenter import Segmenter
from evit_seg.replay.alert_params import load_alert_rules
from evit_seg.replay.annotations import Annotations
from evit_seg.replay.bag import Bag
from evit_seg.replay.cvat import palette
from evit_seg.replay.disagreement import disagreement
from evit_seg.replay.evaluate import evaluate
from evit_seg.replay.event_truth import EventTimes
from evit_seg.replay.gates import Gate, hold_gates, known_numbers
from evit_seg.replay.harvest import harvest, HarvestBag, HarvestOptions
from evit_seg.replay.observers import standard_observers
from evit_seg.replay.places import load_geo_parameters
from evit_seg.replay.pool import WorkerDied, Workers
from evit_seg.replay.pooled import pool_runs
from evit_seg.replay.recommended import MAX_FALSE_PER_MIN
from evit_seg.replay.spool import FrameSpool
from evit_seg.replay.truth_folder import masks_of_bag
from tqdm import tqdm

REPORT_SCHEMA = 2
BAG_SUFFIXES = ('.bag', '.db3', '.mcap')
THREADS_BESIDE_OTHERS = 1
"""
CPU threads of each engine where several run at a time and none are asked for.

A fixed number, whatever the machine: sums in another number of threads differ in their last bits.
"""


@dataclass(frozen=True)
class RunOptions:
    """
    What all runs share.

    objects, events: a flight's files, or for several bags a folder with `<bag's stem>/objects.csv`
    (and events.csv) for those that have any. truth_folder: of masks, or of folders of masks with
    the bags' stems. event_times: a CSV, or a folder of CSVs with the bags' stems.
    max_false_per_min: what recommended thresholds may give. threads: of the engine, 0 for all
    cores. partial: read what a damaged bag still gives. pictures: keep those of the worst frames,
    for a page. progress: whether to draw a bar per bag.
    """

    image_topic: str | None = None
    truth_topic: str | None = None
    tolerance_ms: float = 0.0
    objects: Path | None = None
    events: Path | None = None
    truth_folder: Path | None = None
    event_times: Path | None = None
    min_height_px: float = 12.0
    max_false_per_min: float = MAX_FALSE_PER_MIN
    params: Path | None = None
    threads: int = 0
    partial: bool = False
    progress: bool = False
    pictures: bool = False


@dataclass(frozen=True)
class RunTask:
    """One bag and one bundle; `spool` is where the run leaves its masks to be compared."""

    bag: Path
    model: str
    options: RunOptions
    spool: Path | None = None


@dataclass(frozen=True)
class Model:
    """A bundle as it was named, and what its gates and its pooled scores are about."""

    argument: str
    labels: LabelMap
    rules: Sequence[AlertRule]


def find_bags(places: Sequence[Path]) -> list[Path]:
    """
    Return the bags among the places and, sorted, in folders that are none themselves.

    A bag is a folder with metadata.yaml, or a .bag, .db3 or .mcap file outside one. InputError
    for a place that is not there, or holds none.
    """
    bags: dict[Path, Path] = {}
    for place in places:
        if not place.exists():
            raise InputError(f'{place} does not exist')
        found = list(_bags_in(place)) if place.is_dir() and not _is_rosbag2(place) else [place]
        if not found:
            raise InputError(f'{place} holds no bag: expected a rosbag2 folder (one with '
                             'metadata.yaml) or a .bag, .db3 or .mcap file in it')
        for bag in found:
            bags.setdefault(bag.resolve(), bag)
    return list(bags.values())


def _is_rosbag2(place: Path) -> bool:
    return (place / 'metadata.yaml').is_file()


def _bags_in(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            if _is_rosbag2(entry):
                yield entry
            elif not entry.is_symlink():  # it may lead back to where we are
                yield from _bags_in(entry)
        elif entry.suffix in BAG_SUFFIXES:
            yield entry


def open_models(arguments: Sequence[str], params: Path | None) -> list[Model]:
    """Verify the bundles and the rules before the first frame is read."""
    if len(set(arguments)) < len(arguments):
        raise ConfigError(f'expected each bundle once, got {list(arguments)!r}')
    models = []
    for argument in arguments:
        labels = open_bundle(find_bundle(argument)).manifest.label_map
        models.append(Model(argument, labels, load_alert_rules(params, labels)))
    return models


def run_task(task: RunTask) -> dict[str, Any]:
    """Return the report of one run, as `evaluate` does."""
    options = task.options
    with Bag(task.bag, partial=options.partial) as bag:
        image = bag.choose_image_topic(options.image_topic)  # complain before the model is loaded
        annotations = _annotations(task.bag, options)
        event_times = EventTimes.of_bag(options.event_times, task.bag) \
            if options.event_times else None
        with ExitStack() as stack:
            segmenter = Segmenter.open(task.model, threads=options.threads)
            stack.callback(segmenter.close)
            rules = load_alert_rules(options.params, segmenter.label_map)
            observers = standard_observers(
                segmenter, rules, image.messages, annotations=annotations,
                min_height_px=options.min_height_px, event_times=event_times,
                max_false_per_min=options.max_false_per_min, pictures=options.pictures,
                params=options.params)
            if task.spool is not None:
                observers.append(stack.enter_context(FrameSpool(task.spool, rules, segmenter)))
            report = evaluate(
                bag, segmenter, rules, image_topic=options.image_topic,
                truth_topic=options.truth_topic,
                truth_folder=masks_of_bag(options.truth_folder, task.bag)
                if options.truth_folder else None,
                tolerance_ms=options.tolerance_ms, annotations=annotations,
                min_height_px=options.min_height_px, geo=load_geo_parameters(options.params),
                observers=observers, progress=options.progress)
    report.pop(FrameSpool.key, None)  # it is a file
    report['model']['threads'] = options.threads
    report['bag']['event_times'] = event_times.file if event_times else None
    return report


def _annotations(bag: Path, options: RunOptions) -> Annotations | None:
    objects, events = options.objects, options.events
    if objects is not None and objects.is_dir():
        objects = objects / bag.stem / 'objects.csv'
        if not objects.is_file():
            return None
        beside = objects.parent / 'events.csv'
        events = beside if beside.is_file() else None
    return Annotations.read(objects, events) if objects else None


def _run_beside_others(task: RunTask) -> dict[str, Any]:
    if task.options.threads:
        cv2.setNumThreads(task.options.threads)
    return run_task(task)


def evaluate_many(bags: Sequence[Path], models: Sequence[Model], options: RunOptions,
                  jobs: int = 1, gates: Sequence[Gate] = (),
                  harvesting: HarvestOptions | None = None) -> dict[str, Any]:
    """
    Return what bag_eval writes: all runs, pooled over the bags, and held against the gates.

    `jobs` is how many runs go on at a time, each in its own process; alone they run in this one.
    A bag that cannot be read is among `failed`; where it is the only one its error is raised, as
    is any that is not the bag's. Everything but what stands under `timing` is the same in every
    run with as many engine threads.
    """
    for model in models:
        known_numbers(gates, model.labels, model.rules)
    _check_one_flight(len(bags), options)
    if harvesting is not None:
        palette(models[0].labels)  # complain before the first run
    spooling = len(models) > 1 or harvesting is not None
    with TemporaryDirectory(prefix='bag_eval_') as folder:
        tasks = [RunTask(bag, model.argument, options,
                         Path(folder) / f'{place}_{number}' if spooling else None)
                 for place, bag in enumerate(bags) for number, model in enumerate(models)]
        results = _run_all(tasks, jobs, alone=len(bags) == 1)
        runs = [(task, result) for task, result in zip(tasks, results)
                if isinstance(result, dict)]
        disagreements = list(_compare(runs))
        harvested = None if harvesting is None else \
            harvest(_to_harvest(runs), models[0].argument, harvesting, options.threads)
    pooled = [pool_runs([report for task, report in runs if task.model == model.argument],
                        model.labels) for model in models]
    return {
        'schema': REPORT_SCHEMA, 'tool': 'bag_eval',
        'runs': [report for _, report in runs],
        'models': [{'model': model.argument, **entry}
                   for model, entry in zip(models, pooled) if entry is not None],
        'disagreement': disagreements,
        'harvest': harvested,
        'gates': [result for model, entry in zip(models, pooled)
                  for result in hold_gates(gates, model.argument, entry)],
        'failed': [{'bag': str(task.bag), 'model': task.model, 'reason': str(result)}
                   for task, result in zip(tasks, results) if isinstance(result, EvitSegError)],
    }


def _check_one_flight(bags: int, options: RunOptions) -> None:
    for path, wanted in ((options.objects, '<stem of the bag>/objects.csv'),
                         (options.event_times, '<stem of the bag>.csv')):
        if bags > 1 and path is not None and not path.is_dir():
            raise ConfigError(f'{path} is about one flight and there are {bags} bags: name a '
                              f'folder that holds {wanted} of each')


def _compare(runs: Sequence[tuple[RunTask, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield where each pair of bundles disagrees, bag by bag."""
    for (first, one), (second, other) in combinations(runs, 2):
        if first.bag == second.bag and first.spool and second.spool:
            yield disagreement(one['bag']['name'], (one['model']['name'], first.spool),
                               (other['model']['name'], second.spool))


def _to_harvest(runs: Sequence[tuple[RunTask, dict[str, Any]]]) -> list[HarvestBag]:
    """Return the bags that were read, each with what its runs left."""
    spools: dict[Path, list[Path]] = {}
    for task, _ in runs:
        if task.spool is not None:
            spools.setdefault(task.bag, []).append(task.spool)
    return [HarvestBag(bag, runs[0][0].options.image_topic, tuple(paths),
                       runs[0][0].options.partial) for bag, paths in spools.items()]


def _run_all(tasks: Sequence[RunTask], jobs: int, alone: bool
             ) -> list[dict[str, Any] | EvitSegError]:
    results: list[Any] = [None] * len(tasks)

    def take(index: int, result: dict[str, Any] | EvitSegError) -> None:
        if isinstance(result, EvitSegError) and \
                (alone or not isinstance(result, (InputError, WorkerDied))):
            raise result
        results[index] = result
        bar.update()

    progress = tasks[0].options.progress and len(tasks) > 1 and jobs > 1
    with tqdm(total=len(tasks), unit='run', desc='bag_eval',
              disable=None if progress else True) as bar:
        if jobs == 1:
            for index, task in enumerate(tasks):
                take(index, _caught(task))
        else:
            quiet = [replace(task, options=replace(task.options, progress=False))
                     for task in tasks]
            with Workers(_run_beside_others, jobs) as workers:
                workers.run(quiet, take)
    return results


def _caught(task: RunTask) -> dict[str, Any] | EvitSegError:
    try:
        return run_task(task)
    except EvitSegError as error:
        return error
