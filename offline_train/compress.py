# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Compress a trained network by a recipe: prune, recover, export, quantize, and look what is left.

Each step is a run folder or a bundle under FOLDER, made by the stage of that name as a person
would call it, then scored and timed. The recipe says what must hold; it fails where it does not.
"""
from __future__ import annotations

import argparse
from dataclasses import asdict
import json
from pathlib import Path
import shlex
from typing import Any, Dict, List, Mapping, Optional, Sequence

from evit_seg.core.errors import ConfigError, InputError
from offline_train.compression.budgets import check_budgets, on_board
from offline_train.compression.guards import (
    check_floors,
    check_guardable,
    FAILED,
    GuardResult,
    PASSED,
    results_to_list,
    verdict,
    verdict_lines,
)
from offline_train.compression.recipe import FIRST, KINDS, load_recipe, Recipe, SKIP
from offline_train.compression.recipe_commands import (
    Command,
    digest,
    export_command,
    plan,
    run_command,
    start_inputs,
)
from offline_train.compression.recipe_records import (
    against_eager,
    check_same_data,
    evaluate_argv,
    graph_of,
    measure_step,
    table,
)
from offline_train.run_dir import RunDir

_MEASURED = '.measured'
"""Follows a step's name where its run was exported only to be measured."""
_EPILOG = """\
what would run:     offline_train compress --recipe config/recipes/x86.yaml --run runs/student \\
                      --out small --dry-run data.root=scenes
run it:             ... --run runs/student --out small data.root=scenes
after an interrupt: ... the same with --resume; finished steps are not made again
one step changed:   ... 2_recover.config.optim.steps=200 1_prune.filters=0.5 floors.person=3

--run is a student, or a teacher if the first stage of the recipe trains the student
(`{stage: distil, fresh: true, base: student.yaml, teacher: $start}`); its scores are what floors
count from, its latency is what ratios are of. FOLDER holds one folder a step (1_prune, 2_recover,
3_bundle, 4_int8), stages.json with a record of each, stages.md with the same as a table.
The exit code is 0 only where every budget and floor that could be measured here is kept, and one
could; 1 where a class, or anything else, was lost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `offline_train compress`."""
    parser.add_argument('--recipe', type=Path, required=True,
                        help='YAML such as config/recipes/x86.yaml')
    parser.add_argument('--run', type=Path, required=True, help='run folder to start from')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER',
                        help='new folder for all steps')
    parser.add_argument('--resume', action='store_true',
                        help='go on in FOLDER after its last finished step, with the same recipe')
    parser.add_argument('--dry-run', action='store_true',
                        help='print the commands that would run, and write nothing')
    parser.add_argument('overrides', nargs='*', metavar='section.key=value',
                        help='such as data.root=scenes or 2_recover.config.optim.steps=100')
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def main(args: argparse.Namespace) -> int:
    """Run `offline_train compress`."""
    recipe = load_recipe(args.recipe, args.overrides)
    start = RunDir.open(args.run)
    steps = plan(recipe, start, args.out)
    if args.dry_run:
        for line in dry_run(recipe, start, args.out, steps):
            print(line)
        return 0
    _check_folder(args.out, [FIRST, *(f'{s.step.name}{end}' for s in steps
                                      for end in ('', _MEASURED))], resume=args.resume)
    return 0 if verdict(compress(recipe, start, args.out, steps)) == PASSED else 1


def compress(recipe: Recipe, start: RunDir, out: Path, steps: Sequence[Command]
             ) -> List[GuardResult]:
    """
    Make the steps that are not made yet, record each, and return what became of the guards.

    It ends at the first step whose outcome breaks a floor. ConfigError before the first step
    where a class cannot be guarded, or where `out` holds steps of another recipe.
    """
    old = _read_records(out)
    first = export_command(FIRST, start.path, out / FIRST, recipe, start_inputs(start))
    for command in (first, *steps):
        _check_marker(out, command)
    _once(out, first)
    records = [_record(recipe, out, first, first.out, old)]
    check_guardable(recipe.floors, records[0])
    results: List[GuardResult] = []
    stopped = ''
    eager: Optional[Dict[str, Any]] = None
    for command in steps:
        _once(out, command)
        if command.step.measure == SKIP:
            continue
        bundle = _bundle_of(recipe, out, command)
        record = _record(recipe, out, command, bundle, old, first.out)
        check_same_data(record, records[0])
        records.append(record)
        if command.step.name not in old:
            _write(out, recipe, start, records, [], '')
        results = check_floors(recipe.floors, records) if command.step.check else []
        if verdict(results) == FAILED:
            stopped = command.step.name
            break
    else:
        if recipe.budgets.eager_ratio is not None:
            eager = against_eager(recipe, start, bundle, records[-1]['precision'])
        graph = graph_of(bundle, records[-1]['precision']) if on_board(recipe.budgets) else None
        results += check_budgets(recipe.budgets, records[-1], graph,
                                 None if eager is None else eager['ratio'])
    _write(out, recipe, start, records, results, stopped, eager)
    print((out / 'stages.md').read_text(encoding='utf-8'))
    return results


def dry_run(recipe: Recipe, start: RunDir, out: Path, steps: Sequence[Command]) -> List[str]:
    """Return the commands that would run, those already done marked; nothing is written."""
    first = export_command(FIRST, start.path, out / FIRST, recipe, start_inputs(start))
    lines = []
    for command in (first, *steps):
        done = _check_marker(out, command)
        lines += [f'# {command.step.name}' + (' (done)' if done else ''), str(command)]
        if command.step.measure == SKIP:
            continue
        bundle = command.out
        if KINDS[command.step.stage] == 'run':
            export = _measured_export(recipe, command)
            bundle = export.out
            lines.append(str(export))
        words = evaluate_argv(recipe, bundle, command.step.measure, _scores(out, command))
        lines.append(shlex.join(['offline_train', 'evaluate', *words]))
        if command is not first:
            lines.append(f'# timed in turns with {first.out}'
                         + (', floors checked' if command.step.check else ''))
    return lines


def _check_folder(out: Path, known: Sequence[str], *, resume: bool) -> None:
    """Raise unless `out` is new, or holds steps of this recipe and is to be gone on with."""
    if not out.exists() or not any(out.iterdir()):
        if resume:
            raise InputError(f'--resume: expected a folder with steps, there are none in {out}')
        out.mkdir(parents=True, exist_ok=True)
        return
    if not resume:
        raise ConfigError(f'{out} holds something already and is not overwritten; name another '
                          'folder with --out, or go on with --resume')
    for marker in sorted(out.glob('*.done')):
        if marker.stem not in known:
            raise ConfigError(f'{out}: holds the step {marker.stem}, which the recipe has not; '
                              'it has changed since, take a new --out')


def _check_marker(out: Path, command: Command) -> bool:
    """Return whether a step is finished; ConfigError if it was made from other things."""
    marker = _marker(out, command)
    if not marker.is_file():
        return False
    made = json.loads(marker.read_text(encoding='utf-8'))
    if made['inputs'] != command.inputs:
        raise ConfigError(f'{command.out}: was made by `{made["command"]}` from things that have '
                          f'changed since, now it would be `{command}`; the recipe, the run or a '
                          'teacher is another one, take a new --out')
    return True


def _once(out: Path, command: Command) -> None:
    """Run a step unless it is finished, and mark it so."""
    if _check_marker(out, command):
        print(f'== {command.step.name}: done before')
        return
    run_command(command)
    _marker(out, command).write_text(json.dumps(
        {'inputs': command.inputs, 'command': str(command)}, indent=2) + '\n', encoding='utf-8')


def _marker(out: Path, command: Command) -> Path:
    return out / f'{command.step.name}.done'


def _scores(out: Path, command: Command) -> Path:
    return out / f'{command.step.name}.evaluate.json'


def _bundle_of(recipe: Recipe, out: Path, command: Command) -> Path:
    """Return the bundle of a step; a run folder is exported for it."""
    if KINDS[command.step.stage] == 'bundle':
        return command.out
    export = _measured_export(recipe, command)
    _once(out, export)
    return export.out


def _measured_export(recipe: Recipe, command: Command) -> Command:
    return export_command(command.step.name + _MEASURED, command.out,
                          command.out / 'bundle' / command.step.name, recipe, command.inputs)


def _record(recipe: Recipe, out: Path, command: Command, bundle: Path,
            old: Mapping[str, Dict[str, Any]], first: Optional[Path] = None) -> Dict[str, Any]:
    """Return the record of a step, measured now unless it was before."""
    step = command.step
    inputs = digest([command.inputs, asdict(recipe.data), asdict(recipe.bench),
                     asdict(recipe.export), step.measure])
    known = old.get(step.name)
    if known is not None and known['inputs'] != inputs:
        raise ConfigError(f'{out}: {step.name} was measured with other settings (sections data, '
                          'bench, export); take those, or a new --out')
    if known is not None:
        return {**known, 'checked': step.check}
    measured = measure_step(recipe, bundle, step.measure, first, _scores(out, command))
    return {'step': step.name, 'stage': step.stage, 'command': str(command), 'inputs': inputs,
            'checked': step.check, 'folder': str(bundle), **measured}


def _read_records(out: Path) -> Dict[str, Dict[str, Any]]:
    path = out / 'stages.json'
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding='utf-8'))
    return {record['step']: record for record in content['steps']}


def _write(out: Path, recipe: Recipe, start: RunDir, records: Sequence[Dict[str, Any]],
           results: Sequence[GuardResult], stopped: str,
           eager: Optional[Dict[str, Any]] = None) -> None:
    """Write stages.json and stages.md, with what is known by now."""
    content = {'kind': 'compress', 'recipe': recipe.name, 'start': str(start.path),
               'steps': list(records), 'eager': eager,
               'stopped_at': stopped or None,
               'guards': results_to_list(results),
               'verdict': verdict(results) if results else None}
    partial = out / 'stages.json.partial'
    partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    partial.replace(out / 'stages.json')
    lines = [table(records, [floor.slug for floor in recipe.floors])]
    if stopped:
        lines.append(f'stopped at {stopped}: what follows it in the recipe was not made')
    if results:
        lines += verdict_lines(results)
    (out / 'stages.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
