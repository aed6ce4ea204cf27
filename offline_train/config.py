# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The configuration of a training run: frozen dataclasses, filled from YAML and overrides.

Order: the defaults below, then the YAML file, then `section.key=value` overrides. A key that does
not exist or a value of the wrong type is a ConfigError that names the nearest key.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, get_args, get_type_hints, Mapping, Sequence, Type, TypeVar

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import nearest
from offline_train.sections import (
    AugmentConfig,
    DataConfig,
    DistilConfig,
    GateConfig,
    InputConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    QuantConfig,
    RunConfig,
    TeacherConfig,
)
import yaml

Section = TypeVar('Section')
DISTIL_TERMS = ('mse', 'kl', 'cwd', 'dist', 'mimic', 'generation')


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on."""

    input: InputConfig = field(default_factory=InputConfig)  # noqa: A003
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    gates: GateConfig = field(default_factory=GateConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        sizes = {'input.height': self.input.height, 'input.width': self.input.width,
                 'augment.crop_height': self.augment.crop_height,
                 'augment.crop_width': self.augment.crop_width}
        for name, size in sizes.items():
            if size < 32 or size % 32:
                raise ConfigError(f'{name}: expected a multiple of 32, got {size!r}')
        if self.augment.crop_height > self.input.height or \
                self.augment.crop_width > self.input.width:
            raise ConfigError('augment.crop_height and crop_width: expected at most the input '
                              f'{self.input.height}x{self.input.width}')
        if len(self.input.mean) != 3 or len(self.input.std) != 3 or min(self.input.std) <= 0:
            raise ConfigError('input.mean and input.std: expected three numbers each, std above 0')
        if len(self.model.widths) != 5 or min(self.model.widths) < 4:
            raise ConfigError('model.widths: expected five channel counts of 4 or more, '
                              f'got {self.model.widths!r}')
        for name, value, allowed in (
                ('optim.precision', self.optim.precision, ('bf16', 'fp32')),
                ('run.device', self.run.device, ('auto', 'cpu')),
                ('teacher.layout', self.teacher.layout, ('nchw', 'nhwc')),
                ('teacher.colour', self.teacher.colour, ('rgb', 'bgr'))):
            if value not in allowed:
                raise ConfigError(f'{name}: expected {" or ".join(map(repr, allowed))}, '
                                  f'got {value!r}')
        if self.optim.accumulate < 1 or self.optim.batch % self.optim.accumulate:
            raise ConfigError(f'optim.batch: expected a multiple of optim.accumulate '
                              f'{self.optim.accumulate}, got {self.optim.batch}')
        self._check_gates()
        self._check_quant()
        self._check_distillation()

    def _check_gates(self) -> None:
        gates = self.gates
        for name, value, right, wanted in (
                ('weight', gates.weight, gates.weight >= 0, '0 or more'),
                ('cost', gates.cost, bool(gates.cost), 'macs, bytes, latency or a JSON file'),
                ('start', gates.start, 0 < gates.start < 1, 'above 0 and below 1'),
                ('threshold', gates.threshold, 0 <= gates.threshold < 1, '0 to below 1'),
                ('learning_rate', gates.learning_rate, gates.learning_rate > 0, 'above 0')):
            if not right:
                raise ConfigError(f'gates.{name}: expected {wanted}, got {value!r}')

    def _check_quant(self) -> None:
        quant = self.quant
        if not quant.enabled:
            return
        for name, value, right, wanted in (
                ('range_decay', quant.range_decay, 0 <= quant.range_decay < 1, '0 to below 1'),
                ('freeze', quant.freeze, 0 < quant.freeze <= 1, 'above 0 up to 1'),
                ('observe', quant.observe,
                 0 <= quant.observe < int(quant.freeze * self.optim.steps),
                 'fewer steps than quant.freeze x optim.steps, '
                 f'{int(quant.freeze * self.optim.steps)}')):
            if not right:
                raise ConfigError(f'quant.{name}: expected {wanted}, got {value!r}')

    def _check_distillation(self) -> None:
        weights = {name: getattr(self.distil, name) for name in DISTIL_TERMS}
        if min(weights.values()) < 0 or self.distil.labels < 0:
            raise ConfigError(f'distil: expected weights of 0 or more, got {weights}')
        used = [name for name, weight in weights.items() if weight > 0]
        if not self.teacher.path:
            if used or self.data.unlabeled:
                wrong = f'distil.{used[0]}' if used else 'data.unlabeled'
                raise ConfigError(f'{wrong}: expected a teacher beside it; set teacher.path')
            return
        if not used:
            raise ConfigError('distil: expected at least one of '
                              f'{", ".join(DISTIL_TERMS)} above 0 beside teacher.path')
        if self.teacher.cache and {'mimic', 'generation'} & set(used):
            raise ConfigError('teacher.cache: holds logits only, expected none with '
                              'distil.mimic or distil.generation')
        if self.teacher.cache and self.augment.copy_paste > 0:
            raise ConfigError('teacher.cache: has not seen pasted objects, expected none with '
                              'augment.copy_paste')


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of a YAML file with `section.key=value` overrides on top."""
    content: Dict[str, Any] = {}
    if path is not None:
        try:
            read = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f'{path}: expected a readable YAML file: {error}') from error
        if not isinstance(read, dict):
            raise ConfigError(f'{path}: expected a mapping of sections, got {read!r}')
        content = read
    for override in overrides:
        _apply_override(content, override)
    return build(TrainConfig, content, '')


def config_to_dict(config: TrainConfig) -> Dict[str, Any]:
    """Return the configuration as plain lists and dicts that YAML can hold."""
    plain = {name: dataclasses.asdict(getattr(config, name))
             for name in (f.name for f in dataclasses.fields(config))}
    for section in plain.values():
        for key, value in section.items():
            if isinstance(value, tuple):
                section[key] = list(value)
    return plain


def _apply_override(content: Dict[str, Any], override: str) -> None:
    path, equals, text = override.partition('=')
    section, dot, key = path.strip().partition('.')
    if not equals or not dot or not key:
        raise ConfigError(f'override: expected section.key=value, got {override!r}')
    block = content.setdefault(section, {})
    if not isinstance(block, dict):
        raise ConfigError(f'{section}: expected a section with keys, got {block!r}')
    try:
        block[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'{path}: expected a YAML value, got {text!r}') from error


def build(cls: Type[Section], content: Mapping[str, Any], where: str) -> Section:
    """Return a dataclass filled from a mapping; `where` goes before a key in what is refused."""
    hints = get_type_hints(cls)
    values: Dict[str, Any] = {}
    for key, value in content.items():
        name = f'{where}{key}'
        if key not in hints:
            guess = nearest(str(key), _all_keys() if not where else hints)
            hint = f'did you mean {guess!r}?' if guess else f'there are {", ".join(hints)}'
            raise ConfigError(f'unknown key {name!r}; {hint}')
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f'{name}: expected a section with keys, got {value!r}')
            values[key] = build(hints[key], value, f'{name}.')
        else:
            values[key] = _checked(value, hints[key], name)
    return cls(**values)


def _all_keys() -> Sequence[str]:
    sections = get_type_hints(TrainConfig)
    keys = [f'{name}.{key}' for name, cls in sections.items() for key in get_type_hints(cls)]
    return [*sections, *keys]


def _checked(value: Any, wanted: Any, name: str) -> Any:
    """Return the value as the field's type; integers are taken for floats, nothing else."""
    items = get_args(wanted)
    if items:  # Tuple[X, ...]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{name}: expected a list, got {value!r}')
        return tuple(_checked(item, items[0], f'{name}[{i}]') for i, item in enumerate(value))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f'{name}: expected {wanted.__name__}, got {value!r}')
    return value
