# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: the one owner of input, outputs, label map, hashes and scores."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from evit_seg.core.errors import BundleError, BundleMissing, ConfigError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap
import yaml

MANIFEST_NAME = 'manifest.yaml'
SCHEMA = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_INPUT_SIDE_PX = 8192


@dataclass(frozen=True)
class InputSpec:
    """What the engine takes: one uint8 image (1, height, width, 3)."""

    layout: str = 'NHWC'
    dtype: str = 'uint8'
    colour: str = 'rgb'
    resize: str = 'stretch'
    interpolation: str = 'linear'


@dataclass(frozen=True)
class Variant:
    """One model file: `height` and `width` are the input's in pixels, `stride` the output's."""

    file: str
    sha256: str
    bytes: int  # noqa: A003  the manifest's key
    engine: str
    precision: str
    height: int
    width: int
    stride: int
    output: str = 'logits'
    opset: Optional[int] = None
    ir_version: Optional[int] = None

    @property
    def input_hw(self) -> Tuple[int, int]:
        """Height and width of the network's input, pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class Golden:
    """A frame and the class-id mask the network gave for it when it was exported."""

    image: str
    image_sha256: str
    mask: str
    mask_sha256: str
    min_agreement: Mapping[str, float]


@dataclass(frozen=True)
class Manifest:
    """All a user of the model must know; see `load_manifest` for the file's form."""

    name: str
    label_map: LabelMap
    variants: Tuple[Variant, ...]
    input: InputSpec = field(default_factory=InputSpec)  # noqa: A003
    normalise: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    golden: Optional[Golden] = None
    description: str = ''
    data: Tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    ignore_index: int = IGNORE_INDEX
    schema: int = SCHEMA


_CHOICES = {
    'layout': ('NHWC',), 'dtype': ('uint8',), 'colour': ('rgb', 'bgr'),
    'resize': ('stretch', 'letterbox'), 'interpolation': ('linear',),
}


def load_manifest(path: Path) -> Manifest:
    """
    Read and check a manifest.

    Raises BundleMissing when there is none, BundleError when it is not a manifest, names an
    unknown key, or is of a newer schema than this package reads.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleMissing(f'no manifest at {path}; is this the folder of a bundle?')
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f'{path} is larger than {MAX_MANIFEST_BYTES} bytes: not a manifest')
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f'{path} is not YAML: {error}') from error
    if not isinstance(content, dict) or not isinstance(content.get('schema'), int):
        raise BundleError(f'{path}: expected a mapping with an integer `schema`')
    if content['schema'] != SCHEMA:
        raise BundleError(f'{path} has schema {content["schema"]}, this evit_seg reads schema '
                          f'{SCHEMA}; install the evit_seg that wrote the bundle, or export again')
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise BundleError(f'{path}: {type(error).__name__}: {error}') from error


def _parse(content: Dict[str, Any]) -> Manifest:
    rest = dict(content)
    label_map = LabelMap.from_list(rest.pop('label_map'))
    variants = tuple(_variant(row) for row in rest.pop('variants'))
    if not variants:
        raise ValueError('`variants` is empty: a bundle holds at least one model file')
    spec = InputSpec(**rest.pop('input', {}))
    for name, allowed in _CHOICES.items():
        if getattr(spec, name) not in allowed:
            raise ValueError(f'input.{name} must be one of {allowed}, got {getattr(spec, name)!r}')
    golden_row = rest.pop('golden', None)
    golden = Golden(**golden_row) if golden_row else None
    for name in (golden.image, golden.mask) if golden else ():
        _check_file_name(name)
    data: List[Mapping[str, Any]] = rest.pop('data', None) or []
    temperature = float(rest.pop('temperature', 1.0))
    if not temperature > 0:
        raise ValueError(f'temperature must be above 0, got {temperature!r}')
    return Manifest(label_map=label_map, variants=variants, input=spec, golden=golden,
                    data=tuple(data), temperature=temperature, **rest)


def _variant(row: Mapping[str, Any]) -> Variant:
    variant = Variant(**row)
    _check_file_name(variant.file)
    height, width, stride = variant.height, variant.width, variant.stride
    if not (0 < height <= MAX_INPUT_SIDE_PX and 0 < width <= MAX_INPUT_SIDE_PX):
        raise ValueError(f'{variant.file}: input {height}x{width} is outside 1 to '
                         f'{MAX_INPUT_SIDE_PX} px')
    if stride < 1 or height % stride or width % stride:
        raise ValueError(f'{variant.file}: stride {stride} does not divide {height}x{width}')
    return variant


def _check_file_name(name: str) -> None:
    """Refuse names that would leave the bundle's folder: a bundle is data from a stranger."""
    if not name or name != Path(name).name or name in ('.', '..'):
        raise ValueError(f'a bundle names files of its own folder, got {name!r}')


def dump_manifest(manifest: Manifest) -> str:
    """Return the manifest as YAML; `load_manifest` reads it back equal."""
    content = asdict(manifest)
    content['label_map'] = manifest.label_map.to_list()
    for key in ('variants', 'data'):
        content[key] = list(content[key])
    if manifest.golden is None:
        del content['golden']
    ordered = {'schema': content.pop('schema'), 'name': content.pop('name'), **content}
    return str(yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=99))
