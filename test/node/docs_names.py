# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Finds the names in a text that the code does not have.

Looked for: topics and services of the nodes, MAVROS's topics, parameters, launch files and their
arguments, programs, modules, files and links. What is none of these is not looked at.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
import re
from typing import Dict, Iterator, Set

ROOT = Path(__file__).resolve().parents[2]
NODES = ('seg_node', 'seg_companion')
# ROS's own services of any node, and its tools' folders.
OF_ROS = {'set_parameters', 'get_parameters', 'change_state', 'get_state'}
NO_TOPICS = {'~/ws/src', '~/ws'}
FILES = (r'(?<![\w/.~$}-])((?:config|docs|launch|models|evit_seg|offline_train|test)/'
         r'(?!\d+\b)[\w./*-]*\w)(?![\w<]|/<)')
SHARE = '$(ros2 pkg prefix --share evit_seg)/'


@dataclass
class Names:
    """What the code has."""

    private: Dict[str, Set[str]]
    """Topics and services of each node by what follows `~/`."""
    mavros: Set[str]
    parameters: Set[str]
    launch: Dict[str, Set[str]]
    """Arguments of each launch file."""
    programs: Set[str]
    root: Path = field(default=ROOT)


def wrong_names(text: str, names: Names, base: Path) -> Iterator[str]:
    """Yield a complaint for each wrong name in a text; links are relative to the folder `base`."""
    text = text.replace(SHARE, '')
    all_private = set().union(*names.private.values())
    for name in re.findall(r'(?<![\w/])~/[a-z_]+(?:/[a-z_]+)*', text):
        if name not in NO_TOPICS and name[2:] not in all_private:
            yield f'topic {name}'
    for node, name in re.findall(rf'\b({"|".join(NODES)})/([a-z_]+(?:/[a-z_]+)*)', text):
        if name not in names.private[node] | OF_ROS:
            yield f'topic {node}/{name}'
    for name in re.findall(r'\bmavros/[a-z_]+(?:/[a-z_]+)*', text):
        if name not in names.mavros:
            yield f'topic {name}'
    yield from _wrong_parameters(text, names)
    yield from _wrong_launches(text, names)
    for name in re.findall(r'ros2 run evit_seg (\w+)', text) + re.findall(r'\bseg_[a-z]+\b', text):
        if name not in names.programs:
            yield f'program {name}'
    for module in re.findall(r'-m ((?:evit_seg|offline_train)[\w.]*)', text):
        path = names.root / module.replace('.', '/')
        if not (path.is_dir() or path.with_suffix('.py').is_file()):
            yield f'module {module}'
    for path in re.findall(FILES, text):
        if not list(names.root.glob(path)):
            yield f'file {path}'
    for link in re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', text):
        if '://' not in link and not (base / link).exists():
            yield f'link {link}'


def _wrong_parameters(text: str, names: Names) -> Iterator[str]:
    prefixes = {name.split('.')[0] for name in names.parameters if '.' in name}
    for name in re.findall(rf'(?<![\w/.~-])(?:{"|".join(sorted(prefixes))})(?:\.[\w<>*]+)+', text):
        ending = name.rpartition('.')[2]
        if ending in ('py', 'md', 'yaml', 'json', 'onnx', 'msg', 'srv'):
            continue
        pattern = re.sub('<[a-z]+>', '*', name)
        if not any(fnmatchcase(known, pattern) for known in names.parameters):
            yield f'parameter {name}'


def _wrong_launches(text: str, names: Names) -> Iterator[str]:
    arguments = set().union(*names.launch.values())
    text = text.replace('\\\n', ' ')
    for name, rest in re.findall(r'\b(?:ros2 launch evit_seg )?(\w+\.launch\.py)([^\n`]*)', text):
        if name not in names.launch:
            yield f'launch file {name}'
            continue
        for argument in re.findall(r'(?:^|\s)(\w+):=', rest):
            if argument not in names.launch[name]:
                yield f'argument {argument} of {name}'
    for argument in re.findall(r'`(\w+):=', text):
        if argument not in arguments:
            yield f'argument {argument}'
    for parameter in re.findall(r'-p ([\w.]+):=', text):
        if parameter not in names.parameters:
            yield f'parameter {parameter}'
