# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: the one owner of input, outputs, label map, hashes and scores."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from evit_seg.core.errors import BundleError, BundleMissing, ConfigError
from evit_seg.core.labels import IGNORE_INDEX, LabelMap
import yaml

MANIFEST_NAME = 'manifest.yaml'
SCHEMA = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_SAID = 500
MAX_INPUT_SIDE_PX = 8192
MAX_INPUT_PIXELS = 2 ** 24
"""Largest input of a network: 4096 x 4096; its first layers take a hundred times as many bytes."""
MAX_LOGITS = 2 ** 27
"""Largest answer of a network, classes x grid: 512 MiB of float32."""
MAX_FILE_BYTES = 2 ** 31 - 1
"""Largest model file: protobuf, and so ONNX, has no larger messages."""


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
    content = _read_yaml(path)
    if not isinstance(content, dict) or type(content.get('schema')) is not int:
        raise BundleError(f'{path}: expected a mapping with an integer `schema`')
    if content['schema'] != SCHEMA:
        raise BundleError(f'{path} has schema {content["schema"]}, this evit_seg reads schema '
                          f'{SCHEMA}; install the evit_seg that wrote the bundle, or export again')
    try:
        return _parse(content)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, ConfigError) as error:
        said = f'{error}'[:MAX_SAID]  # it may quote what came, and that may be all of the file
        raise BundleError(f'{path}: {type(error).__name__}: {said}') from error


class _PlainLoader(yaml.SafeLoader):
    """YAML without code and without aliases, a few of which stand for any amount of content."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError('it holds an alias (*name), write the value out')
        return super().compose_node(parent, index)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding='utf-8'), _PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: dates, UTF-8
        raise BundleError(f'{path} is not YAML: {error}') from error
    except RecursionError as error:
        raise BundleError(f'{path} is not a manifest: it is nested too deeply') from error


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
    golden = _golden(golden_row) if golden_row else None
    data: List[Mapping[str, Any]] = rest.pop('data', None) or []
    temperature = float(rest.pop('temperature', 1.0))
    if not 0 < temperature < math.inf:
        raise ValueError(f'temperature must be above 0, got {temperature!r}')
    manifest = Manifest(label_map=label_map, variants=variants, input=spec, golden=golden,
                        data=tuple(data), temperature=temperature, **rest)
    _check_types(manifest, str, 'name', 'description')
    _check_types(manifest, dict, 'normalise', 'provenance', 'scores')
    _check_types(manifest, int, 'ignore_index')
    if not all(isinstance(entry, dict) for entry in data):
        raise ValueError(f'data: expected a list of mappings, got {data!r}')
    for variant in variants:
        cells = (variant.height // variant.stride) * (variant.width // variant.stride)
        if cells * len(label_map) > MAX_LOGITS:
            raise ValueError(f'{variant.file}: {len(label_map)} classes on {cells} cells are more '
                             f'than {MAX_LOGITS} numbers')
    return manifest


def _variant(row: Mapping[str, Any]) -> Variant:
    variant = Variant(**row)
    _check_file_name(variant.file)
    _check_types(variant, str, 'sha256', 'engine', 'precision', 'output')
    _check_types(variant, int, 'bytes', 'height', 'width', 'stride')
    if not 0 <= variant.bytes <= MAX_FILE_BYTES:
        raise ValueError(f'{variant.file}: expected 0 to {MAX_FILE_BYTES} bytes, got '
                         f'{variant.bytes!r}')
    height, width, stride = variant.height, variant.width, variant.stride
    if not (0 < height <= MAX_INPUT_SIDE_PX and 0 < width <= MAX_INPUT_SIDE_PX
            and height * width <= MAX_INPUT_PIXELS):
        raise ValueError(f'{variant.file}: input {height}x{width} is outside 1 to '
                         f'{MAX_INPUT_SIDE_PX} px and {MAX_INPUT_PIXELS} pixels')
    if stride < 1 or height % stride or width % stride:
        raise ValueError(f'{variant.file}: stride {stride} does not divide {height}x{width}')
    return variant


def _golden(row: Mapping[str, Any]) -> Golden:
    golden = Golden(**row)
    _check_file_name(golden.image)
    _check_file_name(golden.mask)
    _check_types(golden, str, 'image_sha256', 'mask_sha256')
    for precision, share in golden.min_agreement.items():
        if not (isinstance(share, (int, float)) and 0 <= share <= 1):  # nan would pass any test
            raise ValueError(f'golden.min_agreement.{precision}: expected 0 to 1, got {share!r}')
    return golden


def _check_types(holder: object, wanted: type, *names: str) -> None:
    for name in names:
        value = getattr(holder, name)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise TypeError(f'{name}: expected {wanted.__name__}, got {value!r}')


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
