# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Alert rules from a parameter file, as the node would take them, without ROS."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from evit_seg.core.alerts import AlertRule
from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import LabelMap, nearest
from evit_seg.core.share import share_file
import yaml

NODE_NAME = 'seg_node'
RULE_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(AlertRule)
                                 if field.name not in ('class_id', 'slug')}


def load_alert_rules(path: Path | None, label_map: LabelMap) -> list[AlertRule]:
    """
    Return the rules of a ROS parameter file, `config/seg.yaml` when None.

    ConfigError for a name or value the node would refuse; LabelMapMismatch for a class the label
    map lacks. A file without `alert.classes` gets those of `config/seg.yaml`.
    """
    shipped = share_file('config/seg.yaml')
    parameters = read_parameters(path or shipped)
    if 'alert.classes' not in parameters:
        parameters['alert.classes'] = read_parameters(shipped)['alert.classes']
    try:
        return alert_rules(parameters, label_map)
    except ConfigError as error:
        raise ConfigError(f'{path or shipped}: {error}') from error


def read_parameters(path: Path) -> dict[str, Any]:
    """
    Read the node's parameters: full dotted name -> value.

    Sections `/**` and those of a node called seg_node count, in the order of the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: cannot be read as YAML: '
                         f'{" ".join(str(error).split())}') from error
    sections = [section for node, section in content.items()
                if node == '/**' or str(node).split('/')[-1] == NODE_NAME] \
        if isinstance(content, Mapping) else []
    parameters: dict[str, Any] = {}
    for section in sections:
        if isinstance(section, Mapping) and isinstance(section.get('ros__parameters'), Mapping):
            _flatten('', section['ros__parameters'], parameters)
    if not parameters:
        raise ConfigError(f'{path}: expected parameters under `/**: ros__parameters:` or '
                          f'`/{NODE_NAME}: ros__parameters:`')
    return parameters


def _flatten(prefix: str, tree: Mapping[Any, Any], into: dict[str, Any]) -> None:
    for key, value in tree.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            _flatten(f'{name}.', value, into)
        else:
            into[name] = value


def alert_rules(parameters: Mapping[str, Any], label_map: LabelMap) -> list[AlertRule]:
    """
    Return one rule per class of `alert.classes`: its own value, else `alert.default`'s.

    Names outside `alert.` are not looked at.
    """
    slugs = parameters['alert.classes']
    if not isinstance(slugs, list) or len(set(map(str, slugs))) != len(slugs):
        raise ConfigError(f'alert.classes: expected a list of slugs, each once, got {slugs!r}')
    known = [f'alert.{group}.{name}' for group in ('default', *slugs) for name in RULE_DEFAULTS]
    for name in parameters:
        if name.startswith('alert.') and name not in (*known, 'alert.classes'):
            guess = nearest(name, known)
            hint = f'; did you mean {guess!r}?' if guess else ''
            raise ConfigError(f'unknown parameter {name!r}{hint}')
    rules = []
    for slug in slugs:
        values = {}
        for name, default in RULE_DEFAULTS.items():
            for full in (f'alert.{slug}.{name}', f'alert.default.{name}'):
                if full in parameters:
                    values[name] = _number(full, parameters[full], type(default))
                    break
        rules.append(AlertRule(class_id=label_map.by_slug(slug).id, slug=slug, **values))
    return rules


def _number(name: str, value: Any, kind: type) -> Any:
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise ConfigError(f'{name}: expected {kind.__name__}, got {value!r}')
    return kind(value)
