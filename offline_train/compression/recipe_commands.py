# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The commands of a recipe: each step as what a person would type, and a hash of what goes in."""
from __future__ import annotations

import argparse
from dataclasses import dataclass
import hashlib
import importlib
import json
from pathlib import Path
import shlex
from typing import Any, Dict, List, Mapping, NoReturn, Sequence, Tuple

from evit_seg.core.bundle import file_sha256
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import nearest
from evit_seg.core.manifest import MANIFEST_NAME
from offline_train.compression.recipe import FIRST, KINDS, LEARNING, Recipe, START, Step
from offline_train.config import DISTIL_TERMS
from offline_train.run_dir import RunDir
import yaml

_FORGET_TEACHER = ("teacher.path=''", "teacher.cache=''", 'data.unlabeled=[]',
                   *(f'distil.{term}=0' for term in DISTIL_TERMS))


@dataclass(frozen=True)
class Places:
    """Where a step finds what went before, and where it writes; as a person would type them."""

    start: str
    run: str
    bundle: str
    out: str


@dataclass(frozen=True)
class Command:
    """One step to be run: the words of its command and what its outcome depends on."""

    step: Step
    argv: Tuple[str, ...]
    out: Path
    inputs: str
    """Hash of the words, of the files they name, and of all steps before."""

    def __str__(self) -> str:
        return shlex.join(['offline_train', self.step.stage, *self.argv])


def plan(recipe: Recipe, start: RunDir, out: Path) -> List[Command]:
    """
    Return the commands of a recipe, every option checked against its stage's own parser.

    ConfigError names the step whose option is unknown or wrong, or that has no bundle to work on.
    """
    commands: List[Command] = []
    run, bundle = str(start.path), ''
    inputs = digest(identity(start.path))
    for step in recipe.steps:
        folder = out / step.name
        argv = _argv(step, Places(str(start.path), run, bundle, str(folder)), recipe)
        if step.stage not in LEARNING:  # a learning step's words are checked as configuration
            parse(step, argv)
        words = _argv(step, Places(START, '$run', '$bundle' if bundle else '', '$out'), recipe)
        files = [identity(Path(name)) for name in (step.learning.base, step.learning.teacher)
                 if name and name != START]
        inputs = digest([inputs, step.name, step.stage, words, files])
        commands.append(Command(step, tuple(argv), folder, inputs))
        if KINDS[step.stage] == 'run':
            run, bundle = str(folder), ''
        else:
            bundle = str(folder)
    return commands


def export_command(name: str, run: Path, out: Path, recipe: Recipe, inputs: str) -> Command:
    """Return the command that makes a bundle of a run only to measure it."""
    step = Step('export', name, '', check=False)
    argv = _argv(step, Places('', str(run), '', str(out)), recipe)
    return Command(step, tuple(argv), out, digest([inputs, recipe.export.opset]))


def start_inputs(start: RunDir) -> str:
    """Return the hash of what the first network is."""
    return digest([FIRST, identity(start.path)])


def parse(step: Step, argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a step's command as its stage reads them."""
    return _parser(step).parse_args(list(argv))


def run_command(command: Command) -> None:
    """
    Run one step in this process; a training run that was interrupted goes on.

    ConfigError where another stage has left something unfinished, or has not ended well.
    """
    argv: Sequence[str] = command.argv
    if command.out.exists() and any(command.out.iterdir()):
        if command.step.stage not in LEARNING:
            raise ConfigError(f'{command.out}: was left unfinished by {command.step.stage!r} and '
                              'is not overwritten; delete it, then go on with --resume')
        argv = ['--resume', str(command.out)]
    print(f'== {command.step.name}: ' + shlex.join(['offline_train', command.step.stage, *argv]),
          flush=True)
    code = _stage(command.step.stage).main(parse(command.step, argv))
    if code:
        raise ConfigError(f'{command.step.name}: `offline_train {command.step.stage}` ended with '
                          f'exit code {code}')


def identity(path: Path) -> Any:
    """Return what tells a run folder, a bundle or a file from another: names and hashes."""
    if (path / 'config.yaml').is_file():
        run = RunDir.open(path)
        return [file_sha256(path / 'config.yaml'), file_sha256(run.find_checkpoint())]
    file = path / MANIFEST_NAME if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f'{path}: expected a run folder, a bundle or a file, found none')
    return file_sha256(file)


def _argv(step: Step, places: Places, recipe: Recipe) -> List[str]:
    if step.stage in LEARNING:
        return _learning_argv(step, places)
    parser = _parser(step)
    options = {'--' + str(key).replace('_', '-'): value for key, value in step.options.items()}
    known = parser.options()
    for option in options:
        if option not in known:
            guess = nearest(option, known)
            hint = f'did you mean {guess[2:]!r}?' if guess else \
                f'there are {", ".join(sorted(name[2:] for name in known))}'
            raise ConfigError(f'{step.name}: {step.stage} has no option {option[2:]!r}; {hint}')
    given: Dict[str, Any] = {'--run': places.run, '--bundle': places.bundle, '--out': places.out,
                             '--opset': recipe.export.opset}
    if '--bundle' in known and '--bundle' not in options and not places.bundle:
        raise ConfigError(f'{step.name}: {step.stage} works on a bundle, expected an `export` '
                          'stage between it and the last one that changed the network')
    if step.stage != 'export':
        del given['--opset']
    words: List[str] = []
    for option, value in {**{k: v for k, v in given.items() if k in known}, **options}.items():
        words += _words(option, value, places.start)
    return words


def _learning_argv(step: Step, places: Places) -> List[str]:
    learning = step.learning
    words = ['--config', learning.base or str(Path(places.run) / 'config.yaml'),
             '--out', places.out]
    if learning.fresh:
        words += ["model.initial=''", 'model.cuts=[]']
    else:
        words += [f'model.initial={places.run}', 'model.pretrained=false', "model.weights=''"]
    if not learning.base:
        words.append('gates.weight=0')  # gates are trained where the line says so, and once
    if learning.teacher:
        words.append(f'teacher.path={_filled(learning.teacher, places.start)}')
    elif step.stage == 'train':
        words += _FORGET_TEACHER
    return words + [f'{key}={_yaml(_filled(value, places.start))}'
                    for key, value in step.config.items()]


def _words(option: str, value: Any, start: str) -> List[str]:
    """Return an option of a YAML line as words; true is a flag, false or null is none."""
    if value is True:
        return [option]
    if value is False or value is None:
        return []
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, (dict, list, bool)):
            raise ConfigError(f'{option[2:]}: expected a number, a text or a list of them, '
                              f'got {value!r}')
    return [option, *(str(_filled(item, start)) for item in values)]


def _filled(value: Any, start: str) -> Any:
    return start if value == START else value


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.strip().removesuffix('...').strip()


def _stage(name: str) -> Any:
    return importlib.import_module(f'offline_train.{name}')


class _StageParser(argparse.ArgumentParser):
    """A stage's parser whose complaints are errors that name the step."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f'{self.prog}: {message}')

    def options(self) -> Mapping[str, Any]:
        """Return the long options the stage has added."""
        return {name: action for name, action in self._option_string_actions.items()
                if name.startswith('--')}


def _parser(step: Step) -> _StageParser:
    parser = _StageParser(prog=f'{step.name} (offline_train {step.stage})', add_help=False,
                          allow_abbrev=False)
    _stage(step.stage).add_arguments(parser)
    return parser


def digest(content: Any) -> str:
    """Return a short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
