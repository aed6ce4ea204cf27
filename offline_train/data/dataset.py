# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Data sets described by YAML: where images and masks lie, and what the masks' values mean.

    name, licence, url:  what the manifest says of the data
    images, masks:       file patterns below the root, `/` between folders; {split} is a split's
                         folder, {id} one image's name (it may hold `/`), a leading `**/` any
                         folders or none. Several image patterns are alternatives; of several mask
                         patterns the first that has a file wins, image by image
    splits:              split -> its folder
    split_list:          optional JSON file below the root, {split: [ids]}, that has the last word
    mask:                see `MaskSpec`
    classes:             a label map of its own, as in config/labels; LPCV 2023's classes if absent
    root:                the folder, in a user's own YAML; `--root` overrides it

A key that does not exist or a value of the wrong type is a ConfigError that names the nearest key.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, get_args, get_type_hints, List, Mapping, Tuple, Type, TypeVar

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.core.labels import LabelMap, load_label_map, nearest
from evit_seg.core.share import share_file
import yaml

FOLDER = 'config/datasets'
IGNORE = 'ignore'
NOT_FLOOD = 'not_flood'
SPECIAL = (IGNORE, NOT_FLOOD)
"""Targets that are no class: 255 without a label, 254 'anything but flood' (flood IoU only)."""
ENCODINGS = ('ids', 'colours', 'threshold')
Section = TypeVar('Section')


@dataclass(frozen=True)
class Source:
    """One class of the masks: an id or an RGB colour, and the class it becomes."""

    to: str
    """Slug of the label map, 'ignore' or 'not_flood'."""
    id: int = -1  # noqa: A003
    """Value of the pixel, encoding ids."""
    colour: Tuple[int, ...] = ()
    """R, G, B of the pixel, 0-255, encoding colours."""
    name: str = ''
    """What the data set calls it."""


@dataclass(frozen=True)
class MaskSpec:
    """
    How a mask's pixels become class ids.

    ids: one channel of 8 bits. With `sources`, only the ids listed are allowed; without, id v is
    class v - first_id of the label map. colours: three channels of 8 bits, only the colours of
    `sources`. threshold: grey levels above `threshold` are `above`, the others `otherwise`.
    """

    encoding: str = 'ids'
    sources: Tuple[Source, ...] = ()
    first_id: int = 0
    ignore: Tuple[int, ...] = ()
    """Ids without a label, encoding ids."""
    threshold: int = 127
    above: str = ''
    otherwise: str = ''


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: its files, its masks and what is to be said of it; see the module."""

    name: str
    licence: str
    images: Tuple[str, ...]
    masks: Tuple[str, ...]
    splits: Mapping[str, str]
    mask: MaskSpec
    url: str = ''
    split_list: str = ''
    root: str = ''
    label_map: LabelMap = field(default_factory=load_label_map)

    def folder_of(self, split: str) -> str:
        """Return the folder name {split} stands for; ConfigError names the nearest split."""
        if split not in self.splits:
            raise ConfigError(f'{self.name}: unknown split {split!r}; '
                              f'{_hint(split, list(self.splits))}')
        return self.splits[split]

    def at(self, root: str | Path | None) -> Path:
        """Return the data set's folder, `root` or the YAML's own; InputError if it is none."""
        chosen = str(root or self.root)
        if not chosen:
            raise ConfigError(f'{self.name}: expected the folder of the data, got none; say it '
                              'with --root DIR or with `root:` in a YAML of your own')
        folder = Path(chosen).expanduser()
        if not folder.is_dir():
            raise InputError(f'{folder}: expected the folder of {self.name}, there is none')
        return folder


def shipped_datasets() -> Dict[str, Path]:
    """Return the YAML files that come with the package, by name."""
    return {path.stem: path for path in sorted(share_file(FOLDER).glob('*.yaml'))}


def load_dataset(name_or_path: str | Path) -> DatasetSpec:
    """
    Return a shipped data set by name, or the one a YAML file describes.

    ConfigError for an unknown name or key and for values that do not fit, InputError for a file
    that cannot be read.
    """
    path = Path(name_or_path)
    if path.suffix not in ('.yaml', '.yml'):
        shipped = shipped_datasets()
        if str(name_or_path) not in shipped:
            raise ConfigError(f'unknown data set {str(name_or_path)!r}; '
                              f'{_hint(str(name_or_path), list(shipped))} A YAML file of your own '
                              'is named with its .yaml')
        path = shipped[str(name_or_path)]
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: expected a readable YAML file: {error}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: expected a mapping with the keys of a data set, '
                          f'got {content!r}')
    try:
        return _parse(content)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def _parse(content: Dict[str, Any]) -> DatasetSpec:
    rest = dict(content)
    if 'label_map' in rest:
        raise ConfigError("unknown key 'label_map'; did you mean 'classes'?")
    rows = rest.pop('classes', None)
    if rows is not None and not isinstance(rows, list):
        raise ConfigError(f'classes: expected a list of id, name and colour, got {rows!r}')
    if rows is not None:
        rest['label_map'] = LabelMap.from_list(rows)
    spec = _build(DatasetSpec, rest, '')
    _check_files(spec)
    _check_mask(spec.mask, spec.label_map)
    return spec


def _build(cls: Type[Section], content: Mapping[str, Any], where: str) -> Section:
    hints = get_type_hints(cls)
    values = {}
    for key, value in content.items():
        if key not in hints:
            known = [name for name in hints if name != 'label_map']
            if cls is DatasetSpec:
                known.append('classes')
            raise ConfigError(f'unknown key {f"{where}{key}"!r}; {_hint(str(key), known)}')
        values[key] = _checked(value, hints[key], f'{where}{key}')
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    missing = [f.name for f in fields if f.name not in values
               and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise ConfigError(f'{where}{missing[0]}: expected a value, the key is missing')
    return cls(**values)


def _checked(value: Any, wanted: Any, where: str) -> Any:
    """Return the value as the field's type: a section, a tuple, a mapping of texts or a scalar."""
    items = get_args(wanted)
    if len(items) == 2 and items[1] is Ellipsis:
        if not isinstance(value, list):
            raise ConfigError(f'{where}: expected a list, got {value!r}')
        return tuple(_checked(v, items[0], f'{where}[{i}]') for i, v in enumerate(value))
    if items:  # Mapping[str, str]
        if not isinstance(value, dict) or not value:
            raise ConfigError(f'{where}: expected a mapping of texts, got {value!r}')
        return {_checked(k, str, f'{where} key'): _checked(v, str, f'{where}.{k}')
                for k, v in value.items()}
    if dataclasses.is_dataclass(wanted) and wanted is not LabelMap:
        if not isinstance(value, dict):
            raise ConfigError(f'{where}: expected a section with keys, got {value!r}')
        return _build(wanted, value, f'{where}.')  # type: ignore[arg-type]
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise ConfigError(f'{where}: expected {wanted.__name__}, got {value!r}')
    return value


def _hint(wrong: str, known: List[str]) -> str:
    guess = nearest(wrong, known)
    return f'did you mean {guess!r}?' if guess else f'there are {", ".join(known)}.'


def _check_files(spec: DatasetSpec) -> None:
    for key, patterns in (('images', spec.images), ('masks', spec.masks)):
        if not patterns:
            raise ConfigError(f'{key}: expected at least one file pattern, got none')
        for pattern in patterns:
            parts = pattern.split('/')
            if pattern.count('{id}') != 1 or '..' in parts or parts[0] == '':
                raise ConfigError(f'{key}: expected patterns below the root with {{id}} once, '
                                  f'such as IMG/{{split}}/{{id}}.png, got {pattern!r}')
            if '{split}' not in pattern and not spec.split_list:
                raise ConfigError(f'{key}: expected {{split}} in {pattern!r}, or a split_list '
                                  'that says which ids belong to which split')


def _check_mask(mask: MaskSpec, label_map: LabelMap) -> None:
    if mask.encoding not in ENCODINGS:
        raise ConfigError(f'mask.encoding: expected one of {", ".join(ENCODINGS)}, '
                          f'got {mask.encoding!r}')
    targets = {f'mask.sources[{i}].to': source.to for i, source in enumerate(mask.sources)}
    if mask.encoding == 'threshold':
        targets = {'mask.above': mask.above, 'mask.otherwise': mask.otherwise}
    for where, target in targets.items():
        known = [*label_map.slugs, *SPECIAL]
        if target not in known:
            raise ConfigError(f'{where}: unknown class {target!r}; {_hint(target, known)}')
    if not 0 <= mask.threshold <= 254:
        raise ConfigError(f'mask.threshold: expected 0 to 254, got {mask.threshold!r}')
    if not 0 <= mask.first_id <= 256 - len(label_map):
        raise ConfigError(f'mask.first_id: expected 0 to {256 - len(label_map)}, so that '
                          f'{len(label_map)} classes fit into a byte, got {mask.first_id!r}')
    keys: List[Any] = []
    if mask.encoding == 'ids':
        keys = [source.id for source in mask.sources] + list(mask.ignore)
        wrong = [key for key in keys if not 0 <= key <= 255]
        if wrong:
            raise ConfigError(f'mask: expected ids 0 to 255, got {wrong[0]!r}')
    if mask.encoding == 'colours':
        keys = [source.colour for source in mask.sources]
        wrong = [key for key in keys if len(key) != 3 or not all(0 <= v <= 255 for v in key)]
        if wrong or not keys:
            raise ConfigError('mask.sources: expected a colour [r, g, b] of 0-255 for each, '
                              f'got {wrong[0] if wrong else "no sources"!r}')
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f'mask: {twice!r} stands there twice')
