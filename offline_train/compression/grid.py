# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A grid: a chain of stages, and the axes over whose values it is run.

    title: what the figures are called
    names: {run: runs/a, data: scenes}       # set anew on the command line: run=runs/b
    axes:
      kind: [filters, hidden]
      ratio: [0.1, 0.3]
      model:                                  # a value may set further names with it
      - {model: small, start: "{run}"}
    steps:
    - prune --run {start} --out {cell}/pruned --{kind} {ratio}
    - when: {kind: [filters]}                 # only in the cells that have these values
      do: export --run {cell}/pruned --out {cell}/bundle
    results: {miou: "evaluate.json:scores.dataset.miou"}   # file in the cell, path in its JSON

Each combination of values is a cell, a folder of its own that {cell} stands for.
"""
from __future__ import annotations

from dataclasses import dataclass
from itertools import product
import json
from pathlib import Path
import re
import shlex
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import nearest
import yaml

CELL = 'cell'
KEYS = ('title', 'names', 'axes', 'steps', 'results')
Value = Mapping[str, Any]
"""One value of an axis: the axis' own name first, then what it sets besides."""


@dataclass(frozen=True)
class Step:
    """One command of the chain and the cells it is for."""

    words: Tuple[str, ...]
    when: Mapping[str, Tuple[str, ...]]


@dataclass(frozen=True)
class Cell:
    """One combination of values: its folder's name, its values, its commands without {cell}."""

    name: str
    values: Mapping[str, Any]
    commands: Tuple[Tuple[str, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked."""

    title: str
    names: Mapping[str, str]
    axes: Mapping[str, Tuple[Value, ...]]
    steps: Tuple[Step, ...]
    results: Mapping[str, Tuple[str, str]]
    """Key of the joined results -> (file in the cell, dotted path in it)."""

    def cells(self) -> List[Cell]:
        """Return all cells; the first axis changes slowest."""
        found = [self._cell(values) for values in product(*self.axes.values())]
        names = [cell.name for cell in found]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise ConfigError(f'axes: expected values that differ as names of folders, got two '
                              f'cells {double!r}')
        return found

    def _cell(self, chosen: Sequence[Value]) -> Cell:
        values = {axis: value[axis] for axis, value in zip(self.axes, chosen, strict=True)}
        known = {**self.names, **{k: _fill(str(v), self.names)
                                  for value in chosen for k, v in value.items()}}
        commands = tuple(tuple(_fill(word, known) for word in step.words) for step in self.steps
                         if all(str(values[a]) in allowed for a, allowed in step.when.items()))
        name = '_'.join(f'{axis}-{value}' for axis, value in values.items())
        return Cell(re.sub(r'[^A-Za-z0-9_.+-]', '_', name), values, commands)


def load_grid(path: Path, overrides: Sequence[str], stages: Sequence[str]) -> Grid:
    """
    Return the grid in a YAML file, its names set anew by `name=value` words.

    stages: what a step may begin with. ConfigError for anything that does not fit.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f'{path}: expected a YAML file of a grid: {error}') from error
    if not isinstance(content, dict) or not set(content) <= set(KEYS) or \
            not {'axes', 'steps'} <= set(content):
        raise ConfigError(f'{path}: expected axes and steps, and nothing but {", ".join(KEYS)}, '
                          f'got {list(content) if isinstance(content, dict) else content!r}')
    names = {str(k): str(v) for k, v in _mapping(content.get('names') or {}, 'names').items()}
    for word in overrides:
        name, equals, value = word.partition('=')
        if not equals or name not in names:
            raise ConfigError(f'expected name=value with one of {", ".join(names) or "no names"} '
                              f'(names of {path}), got {word!r}')
        names[name] = value
    axes = {str(axis): _values(str(axis), values)
            for axis, values in _mapping(content['axes'], 'axes').items()}
    if not axes or not isinstance(content['steps'], list) or not content['steps']:
        raise ConfigError(f'{path}: expected one axis and one step at least')
    steps = tuple(_step(item, axes) for item in content['steps'])
    results = {str(key): _result(str(key), text)
               for key, text in _mapping(content.get('results') or {}, 'results').items()}
    grid = Grid(str(content.get('title', path.stem)), names, axes, steps, results)
    _check(grid, stages)
    return grid


def read_value(folder: Path, file: str, dotted: str) -> Any:
    """
    Return one number or text of a JSON file in a cell, None where it holds null.

    A list is entered by an index or by the `slug` or `name` of one of its elements. InputError
    says what there is in the place of what was asked for.
    """
    try:
        here = json.loads((folder / file).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{folder / file}: expected a JSON file that a step wrote: {error}') \
            from error
    for part in dotted.split('.'):
        if isinstance(here, list):
            named = {str(e[k]): e for e in here if isinstance(e, dict)
                     for k in ('name', 'slug') if k in e}
            here = {**{str(i): e for i, e in enumerate(here)}, **named}
        if not isinstance(here, dict) or part not in here:
            there = ', '.join(map(str, here)) if isinstance(here, dict) else repr(here)
            raise InputError(f'{folder / file}: expected {dotted!r}, found no {part!r}; there is '
                             f'{there}')
        here = here[part]
    if isinstance(here, (dict, list)):
        raise InputError(f'{folder / file}: expected one value at {dotted!r}, found '
                         f'{", ".join(map(str, here)) if isinstance(here, dict) else "a list"}')
    return here


def _mapping(value: Any, where: str) -> Dict[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f'{where}: expected a mapping, got {value!r}')
    return value


def _values(axis: str, values: Any) -> Tuple[Value, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f'axes.{axis}: expected a list of values, got {values!r}')
    found = tuple(value if isinstance(value, dict) else {axis: value} for value in values)
    for value in found:
        if axis not in value or any(isinstance(v, (dict, list, bool, type(None)))
                                    for v in value.values()):
            raise ConfigError(f'axes.{axis}: expected numbers, texts (on, off, yes, no in '
                              f'quotes) or mappings of those with {axis!r}, got {value!r}')
        if set(value) != set(found[0]):
            raise ConfigError(f'axes.{axis}: expected values that set the same names, got '
                              f'{sorted(found[0])} and {sorted(value)}')
    return found


def _step(item: Any, axes: Mapping[str, Sequence[Value]]) -> Step:
    item = {'do': item} if isinstance(item, str) else item
    if not isinstance(item, dict) or not isinstance(item.get('do'), str) or \
            not set(item) <= {'do', 'when'}:
        raise ConfigError(f'steps: expected a command or `when` and `do`, got {item!r}')
    when = {}
    for axis, allowed in _mapping(item.get('when', {}), 'steps: when').items():
        allowed = [str(a) for a in (allowed if isinstance(allowed, list) else [allowed])]
        if axis not in axes or not set(allowed) <= {str(v[axis]) for v in axes[axis]}:
            raise ConfigError(f'steps: when: expected values of an axis, got {axis}: {allowed}')
        when[axis] = tuple(allowed)
    try:
        return Step(tuple(shlex.split(item['do'])), when)
    except ValueError as error:
        raise ConfigError(f'steps: expected a command, got {item["do"]!r}: {error}') from error


def _result(key: str, text: Any) -> Tuple[str, str]:
    file, colon, dotted = str(text).partition(':')
    if not colon or not file or not dotted:
        raise ConfigError(f'results.{key}: expected file.json:dotted.path, got {text!r}')
    return file, dotted


def _check(grid: Grid, stages: Sequence[str]) -> None:
    """Raise for names used twice, axes that change nothing, steps that are no stages."""
    names = [*grid.names, *(n for values in grid.axes.values() for n in values[0]), CELL]
    double = next((n for n in [*names, *grid.results] if [*names, *grid.results].count(n) > 1), '')
    if double:
        raise ConfigError(f'expected each name once (names, axes, results, cell), got {double!r} '
                          'twice')
    used = {name for step in grid.steps for word in step.words
            for name in re.findall(r'\{(\w+)\}', word)} | {a for s in grid.steps for a in s.when}
    for axis, values in grid.axes.items():
        if not used & set(values[0]):
            raise ConfigError(f'axes.{axis}: expected {{{axis}}} in a step, it changes nothing')
    for cell in grid.cells():
        if not cell.commands:
            raise ConfigError(f'steps: expected one at least for each cell, {cell.name} has none')
        wrong = next((c[0] if c else '' for c in cell.commands if not c or c[0] not in stages),
                     None)
        if wrong is not None:
            raise ConfigError(f'steps: expected a stage ({", ".join(stages)}), got {wrong!r}')


def _fill(word: str, known: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        if name == CELL:
            return match[0]
        if name not in known:
            close = nearest(name, [*known, CELL])
            hint = f'; did you mean {close!r}?' if close else ''
            raise ConfigError(f'steps: expected one of {", ".join([*known, CELL])} in braces, got '
                              f'{name!r}{hint}')
        return known[name]
    return re.sub(r'\{(\w+)\}', value_of, word)
