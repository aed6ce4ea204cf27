# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
A recipe: the stages from a trained network to a bundle, and what must hold on the way.

Order: the defaults below, then the YAML file, then `section.key=value` overrides. A key that does
not exist or a value of the wrong type is a ConfigError that names the nearest key.
"""
from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, get_type_hints, List, Mapping, Optional, Sequence, Tuple

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import nearest
from offline_train.compression.budgets import Budgets, parse_budgets
from offline_train.compression.guards import Floor, parse_floors
from offline_train.config import build, TrainConfig
import yaml

KINDS = {'train': 'run', 'distil': 'run', 'prune': 'run', 'low_rank': 'run', 'export': 'bundle',
         'quantize': 'bundle'}
"""The stages a recipe may name, and what each writes."""
LEARNING = ('train', 'distil')
"""Stages that take a configuration, not options."""
CHECKED = (*LEARNING, 'quantize')
"""Stages whose outcome must keep the floors unless the recipe says otherwise."""
NAMES = {'distil': 'recover', 'export': 'bundle', 'quantize': 'int8'}
"""What a step is called after its number where that is not the stage's name; fresh: student."""
START = '$start'
"""Stands for the folder given with --run, in any value of a stage."""
SKIP = 'none'
"""The `measure` of a step that is not scored."""
FIRST = '0_start'
"""The step before all others: the network as it is given."""


@dataclass(frozen=True)
class DataSection:
    """What every step is scored on, as in `offline_train evaluate`: a folder or a data set."""

    folder: str = ''
    """Folder with SPLIT/IMG and SPLIT/GT; empty: the data set below."""
    dataset: str = ''
    """Name under config/datasets or path of such a YAML."""
    root: str = ''
    """Folder the data set lies in."""
    split: str = 'val'
    """Part of the data."""
    limit: int = 0
    """Only so many frames, evenly spread; 0: all."""
    compare_at: str = 'native'
    """Size of the masks that are compared: native or 512."""


@dataclass(frozen=True)
class BenchSection:
    """How every step is timed here, in turns with the first network."""

    runs: int = 100
    """Timed frames of each."""
    warm_up: int = 5
    """Frames before the timed ones."""
    threads: int = 0
    """Engine threads, in scores too; 0: the engine decides."""
    provider: str = 'cpu'
    """Engine provider: cpu, cuda or tensorrt."""
    energy_seconds: int = 10
    """Seconds of frames for the energy, where there is a sensor."""
    idle_seconds: int = 5
    """Seconds of rest before, for the energy above idle."""


@dataclass(frozen=True)
class ExportSection:
    """How a run becomes a bundle, to be measured and in an `export` stage that does not say."""

    opset: int = 17
    """ONNX opset; 13 for JetPack 4.6."""


@dataclass(frozen=True)
class StepKeys:
    """What a stage's line may hold beside the options of the stage."""

    stage: str = ''
    """The stage, one of KINDS."""
    name: str = ''
    """What the step is called after its number; empty: see NAMES."""
    measure: str = ''
    """Precision that is measured; empty: what `quantize` adds, or the bundle's first; none."""


@dataclass(frozen=True)
class LearningKeys:
    """What the line of `train` and `distil` may hold beside that and `config`."""

    base: str = ''
    """YAML of the configuration; empty: that of the run before."""
    fresh: bool = False
    """Do not start from the weights and cuts of the run before."""
    teacher: str = ''
    """Run folder, bundle or ONNX file; empty: as the configuration says."""


@dataclass(frozen=True)
class Step:
    """One stage of a recipe."""

    stage: str
    name: str
    """Its folder: number and name."""
    measure: str
    check: bool
    """Whether floors are checked on its outcome."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the stage's command, as in the YAML."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the configuration, `section.key` to value; of LEARNING only."""
    learning: LearningKeys = field(default_factory=LearningKeys)


@dataclass(frozen=True)
class Recipe:
    """Everything a compression depends on beside the run it starts from."""

    name: str
    data: DataSection
    bench: BenchSection
    export: ExportSection
    steps: Tuple[Step, ...]
    budgets: Budgets
    floors: Tuple[Floor, ...]


_SECTIONS = {'data': DataSection, 'bench': BenchSection, 'export': ExportSection}
_KEYS = (*_SECTIONS, 'config', 'stages', 'budgets', 'floors')


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """
    Return the recipe of a YAML file with overrides on top.

    Overrides: `data.root=LPCV`, `budgets.miou=0.5`, `floors.person=3`, `config.run.threads=1` for
    every training stage, `2_recover.config.optim.steps=100` and `1_prune.filters=0.5` for one.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: expected a readable YAML file: {error}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: expected a mapping of sections, got {content!r}')
    lines = _lines(content)
    names = [_step_name(number, line) for number, line in enumerate(lines, 1)]
    for override in overrides:
        _override(content, dict(zip(names, lines, strict=True)), override)
    for key in content:
        _known(str(key), _KEYS, 'recipe')
    sections: Dict[str, Any] = {
        name: build(cls, _mapping(content.get(name), name), f'{name}.')
        for name, cls in _SECTIONS.items()}
    common = _config(_mapping(content.get('config'), 'config'), 'config')
    steps = tuple(_step(line, name, common, last=line is lines[-1])
                  for name, line in zip(names, lines, strict=True))
    recipe = Recipe(Path(path).stem, **sections, steps=steps,
                    budgets=parse_budgets(_mapping(content.get('budgets'), 'budgets')),
                    floors=parse_floors(_mapping(content.get('floors'), 'floors')))
    _check(recipe)
    return recipe


def _lines(content: Mapping[str, Any]) -> List[Dict[str, Any]]:
    lines = content.get('stages')
    if not isinstance(lines, list) or not lines:
        raise ConfigError(f'stages: expected a list of stages, got {lines!r}')
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or not isinstance(line.get('stage'), str):
            raise ConfigError(f'stages, number {number}: expected a mapping with `stage`, '
                              f'got {line!r}')
        _known(line['stage'], KINDS, f'stages, number {number}', 'stage')
    return lines


def _step_name(number: int, line: Mapping[str, Any]) -> str:
    usual = 'student' if line.get('fresh') else NAMES.get(line['stage'], line['stage'])
    name = line.get('name') or usual
    if not isinstance(name, str) or not name.replace('-', '_').isidentifier():
        raise ConfigError(f'stages, number {number}: expected a name of letters, digits, - and _, '
                          f'got {name!r}')
    return f'{number}_{name}'


def _override(content: Dict[str, Any], steps: Mapping[str, Dict[str, Any]],
              override: str) -> None:
    """Set one `section.key=value` of the content, or of a stage's line by the step's name."""
    path, equals, text = override.partition('=')
    section, dot, key = path.strip().partition('.')
    if not equals or not dot or not key:
        raise ConfigError(f'override: expected section.key=value, got {override!r}')
    _known(section, (*(k for k in _KEYS if k != 'stages'), *steps), f'override {override!r}',
           'section or step')
    block = steps[section] if section in steps else content.setdefault(section, {})
    if section in steps and key.startswith('config.'):
        block, key = block.setdefault('config', {}), key[len('config.'):]
    if not isinstance(block, dict):
        raise ConfigError(f'{section}: expected a section with keys, got {block!r}')
    try:
        block[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'{path}: expected a YAML value, got {text!r}') from error


def _step(line: Mapping[str, Any], name: str, common: Mapping[str, Any], *, last: bool) -> Step:
    rest = dict(line)
    keys = build(StepKeys, _take(rest, StepKeys), f'{name}.')
    check, learning, config = rest.pop('check', None), LearningKeys(), {}
    if keys.stage in LEARNING:
        learning = build(LearningKeys, _take(rest, LearningKeys), f'{name}.')
        own = _config(_mapping(rest.pop('config', None), f'{name}.config'), f'{name}.config')
        config = {**common, **own}
        for key in rest:
            _known(str(key), (*(f.name for cls in (StepKeys, LearningKeys) for f in fields(cls)),
                              'check', 'config'), name)
    if check is not None and not isinstance(check, bool):
        raise ConfigError(f'{name}.check: expected true or false, got {check!r}')
    if last and check is False:
        raise ConfigError(f'{name}.check: the last stage is always checked, got {check!r}')
    checked = last or (keys.stage in CHECKED if check is None else check)
    measure = keys.measure or ('int8' if keys.stage == 'quantize' else '')
    if checked and measure == SKIP:
        raise ConfigError(f'{name}.measure: expected to measure what is checked; take `measure: '
                          f'{SKIP}` out' + ('' if last else ', or say `check: false`'))
    return Step(keys.stage, name, measure, checked, rest, config, learning)


def _take(line: Dict[str, Any], cls: type) -> Dict[str, Any]:
    """Take the keys of a dataclass out of a line."""
    return {f.name: line.pop(f.name) for f in fields(cls) if f.name in line}


def _config(config: Mapping[str, Any], where: str) -> Dict[str, Any]:
    """Return `section.key` overrides of a training configuration, keys and types checked."""
    hints = get_type_hints(TrainConfig)
    for path, value in config.items():
        section, _, key = str(path).partition('.')
        _known(section, hints, f'{where}: {path!r}', 'section')
        if not key:
            raise ConfigError(f'{where}: expected section.key: value, got {path!r}')
        build(hints[section], {key: value}, f'{where}: {section}.')
    return dict(config)


def _known(key: str, known: Any, where: str, what: str = 'key') -> None:
    if key not in known:
        guess = nearest(key, known)
        hint = f'did you mean {guess!r}?' if guess else f'there are {", ".join(known)}'
        raise ConfigError(f'{where}: unknown {what} {key!r}; {hint}')


def _mapping(value: Optional[Any], name: str) -> Dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f'{name}: expected a section with keys, got {value!r}')
    return value


def _check(recipe: Recipe) -> None:
    """Raise for what does not go together, before minutes are spent on it."""
    data, bench = recipe.data, recipe.bench
    if bool(data.folder) == bool(data.dataset):
        raise ConfigError('data: expected one of data.folder and data.dataset to score on, got '
                          f'{data.folder!r} and {data.dataset!r}')
    if data.folder and data.root:
        raise ConfigError(f'data.root: is the folder of data.dataset, got {data.root!r} beside '
                          f'data.folder {data.folder!r}')
    for name, value, least in (('data.limit', data.limit, 0), ('bench.runs', bench.runs, 1),
                               ('bench.warm_up', bench.warm_up, 1),
                               ('bench.threads', bench.threads, 0),
                               ('bench.energy_seconds', bench.energy_seconds, 1),
                               ('bench.idle_seconds', bench.idle_seconds, 0)):
        if value < least:
            raise ConfigError(f'{name}: expected {least} or more, got {value!r}')
    if recipe.budgets == Budgets() and not recipe.floors:
        raise ConfigError('budgets, floors: expected at least one thing that must hold, got none')
