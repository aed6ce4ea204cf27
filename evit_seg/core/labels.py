# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Label maps: the ids, names, slugs and colours of the classes a network answers with."""
from __future__ import annotations

from dataclasses import dataclass
import difflib
from pathlib import Path
import re
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from evit_seg.core.errors import ConfigError, LabelMapMismatch
from evit_seg.core.share import share_file
import numpy as np
import yaml

IGNORE_INDEX = 255
"""Truth pixels without a label; taken out before any score."""
NOT_FLOOD = 254
"""Truth pixels of 'anything but flood'; only the binary flood IoU counts them."""


def slugify(name: str) -> str:
    """Return the parameter-safe form of a class name: lower case, other characters as `_`."""
    return re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')


def nearest(name: str, candidates: Iterable[str]) -> Optional[str]:
    """Return the candidate most like `name` for a 'did you mean', or None if none is close."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return close[0] if close else None


@dataclass(frozen=True)
class LabelClass:
    """One class: `colour` is RGB, 0-255; `rare` marks the classes alerts exist for."""

    id: int  # noqa: A003  the field's own term
    name: str
    slug: str
    colour: Tuple[int, int, int]
    rare: bool = False


@dataclass(frozen=True)
class LabelMap:
    """The classes of a network, ids 0 to n-1 in order."""

    classes: Tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        if not ids or ids != list(range(len(ids))):
            raise ConfigError(f'label map: expected ids 0 to n-1 in order, got {ids!r}')
        if len(set(self.slugs)) != len(ids):
            raise ConfigError(f'label map: slugs are not unique: {self.slugs!r}')
        if len(ids) > NOT_FLOOD:
            raise ConfigError(f'label map: at most {NOT_FLOOD} classes fit, got {len(ids)}')

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[LabelClass]:
        return iter(self.classes)

    @property
    def names(self) -> List[str]:
        """Class names in id order."""
        return [c.name for c in self.classes]

    @property
    def slugs(self) -> List[str]:
        """Class slugs in id order."""
        return [c.slug for c in self.classes]

    def by_slug(self, slug: str) -> LabelClass:
        """Return the class of that slug; LabelMapMismatch names the nearest one there is."""
        for entry in self.classes:
            if entry.slug == slug:
                return entry
        guess = nearest(slug, self.slugs)
        hint = f'; did you mean {guess!r}?' if guess else f'; there are {", ".join(self.slugs)}'
        raise LabelMapMismatch(f'the label map has no class {slug!r}{hint}')

    def palette_rgb(self) -> np.ndarray:
        """Return the colours as (256, 3) uint8 RGB; ids without a class are black."""
        palette = np.zeros((256, 3), np.uint8)
        for entry in self.classes:
            palette[entry.id] = entry.colour
        return palette

    def to_list(self) -> List[Dict[str, Any]]:
        """Return the rows a manifest or a label file holds."""
        return [{'id': c.id, 'name': c.name, 'slug': c.slug, 'colour': list(c.colour),
                 'rare': c.rare} for c in self.classes]

    @classmethod
    def from_list(cls, rows: Iterable[Mapping[str, Any]]) -> LabelMap:
        """Build a label map from rows of id, name, colour and optionally slug and rare."""
        return cls(tuple(_label_class(row) for row in rows))


def _label_class(row: Mapping[str, Any]) -> LabelClass:
    try:
        red, green, blue = (int(v) for v in row['colour'])
        name = str(row['name'])
        entry = LabelClass(int(row['id']), name, str(row.get('slug') or slugify(name)),
                           (red, green, blue), bool(row.get('rare', False)))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f'label map: expected id, name and colour [r, g, b], got {row!r}') \
            from error
    if not all(0 <= v <= 255 for v in entry.colour):
        raise ConfigError(f'label map: colour of {name!r} is outside 0-255: {entry.colour!r}')
    return entry


def load_label_map(path: Optional[Path] = None) -> LabelMap:
    """Read a label map from YAML (`classes: [...]`); the LPCV 2023 classes when none is named."""
    path = share_file('config/labels/lpcv2023.yaml') if path is None else Path(path)
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    if not isinstance(content, dict) or not isinstance(content.get('classes'), list):
        raise ConfigError(f'{path}: expected a mapping with a list `classes`')
    return LabelMap.from_list(content['classes'])
