# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
Every parameter of seg_node in one table, and the checked NodeConfig that comes out of it.

Needs no ROS: `python -m evit_seg.ros.params --markdown` prints README's table.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass
import math
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from evit_seg.core.alerts import AlertRule
from evit_seg.core.engine import ENGINES
from evit_seg.core.errors import ConfigError
from evit_seg.core.labels import LabelMap, nearest
from evit_seg.core.position import GEO_LIMITS, GeoParameters
from evit_seg.core.safe_zone import LANDABLE, ZoneRule

PREFIXES = ('model', 'engine', 'image', 'mask', 'overlay', 'alert', 'budget', 'geo',
            'safe_zone', 'stale_after_s', 'autostart')
"""First parts of the names that are ours: a name under them that is not in the table is a typo."""
KINDS = {bool: 'bool', int: 'int', float: 'float', str: 'string', tuple: 'string list'}


@dataclass(frozen=True)
class Row:
    """
    One parameter; its type is the default's (a tuple stands for a list of strings).

    when: 'start' (read-only), 'live' (from the next frame on) or 'reload' (at ~/reload_model).
    """

    name: str
    default: Any
    text: str
    when: str = 'start'
    low: Optional[float] = None
    high: Optional[float] = None
    choices: Tuple[str, ...] = ()
    unit: str = ''

    @property
    def kind(self) -> str:
        """Return the type in words."""
        return KINDS[type(self.default)]

    def span(self) -> str:
        """Return the allowed values in words; empty when the type says it all."""
        if self.choices:
            return ', '.join(self.choices)
        if self.low is None:
            return ''
        return f'{self.low:g} ' + ('or more' if self.high is None else f'to {self.high:g}')

    def check(self, value: Any) -> Any:
        """
        Return `value` in the row's own type, an integer for a float included.

        ConfigError says what was expected and what came.
        """
        taken = self._typed(value)
        fits = taken in self.choices if self.choices else (
            (self.low is None or taken >= self.low) and (self.high is None or taken <= self.high))
        if not fits:
            raise ConfigError(f'{self.name}: expected {self.span()}, got {value!r}')
        return taken

    def _typed(self, value: Any) -> Any:
        wanted = type(self.default)
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if wanted is tuple and value is None:  # what ROS makes of an empty list
            return ()
        if wanted is tuple and isinstance(value, (list, tuple)) \
                and all(isinstance(v, str) for v in value):
            return tuple(value)
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            raise ConfigError(f'{self.name}: expected {self.kind}, got {value!r}')
        return value


_ALERT_ROWS = (  # the defaults are AlertRule's own
    ('min_pixels', 0, None, 'px', 'Smallest region that counts as seen, in source pixels.'),
    ('min_confidence', 0, 1, '', 'Smallest mean probability of the class in a region.'),
    ('confirm_k', 1, 100, 'frames', 'Frames with evidence that raise the alert ...'),
    ('confirm_n', 1, 100, 'frames', '... of this many processed ones.'),
    ('clear_after_s', 0, 3600, 's', 'The alert clears when nothing was seen for so long.'),
    ('cooldown_s', 0, 3600, 's', 'Seen again within this time, the same alert id reopens.'),
    ('logit_bias', -20, 20, '', 'Added to the logit of the class: above 0 buys recall.'),
)

_ZONE: Mapping[str, Any] = {name: field.default
                            for name, field in ZoneRule.__dataclass_fields__.items()}

TABLE: Tuple[Row, ...] = (
    Row('autostart', True, 'Configure and activate at once, and exit when that fails; false waits '
        'for a lifecycle manager.'),
    Row('model', 'demo', 'Bundle: a folder, or a name under models/ of the package.', 'reload'),
    Row('engine.name', 'onnxruntime', 'What runs the network; a TorchScript file is a program, '
        'opened only when asked for here.', choices=ENGINES),
    Row('engine.provider', 'cpu', 'Execution provider: cpu, cuda or tensorrt; nothing else is '
        'taken in its place.'),
    Row('engine.threads', 0, 'CPU threads of the network; 0: all cores, or those of engine.cpus.',
        low=0, high=256),
    Row('engine.cpus', '', "CPUs that the network's threads stay on, such as 0-2,5; one alone as "
        '3-3, since ROS takes 3 for a number; empty: any.'),
    Row('engine.cache_dir', '', "Folder of TensorRT's engines; empty: $XDG_CACHE_HOME/evit_seg or "
        '~/.cache/evit_seg.'),
    Row('engine.precision', '', 'Variant of the bundle by precision, such as int8; empty: the '
        'first.'),
    Row('engine.height', 0, 'Variant of the bundle by input height; 0: the first.', low=0,
        high=8192, unit='px'),
    Row('engine.hang_after_s', 1.5, 'A frame that is in the engine for longer, and for more than '
        'four times its slowest warm-up run, is given up and a new engine loaded; 0: never.',
        'live', 0, 3600, unit='s'),
    Row('image.transport', 'raw', 'raw: image_raw; compressed: image_raw/compressed.',
        choices=('raw', 'compressed')),
    Row('image.reliability', 'best_effort', 'Reliability of the image subscription.',
        choices=('best_effort', 'reliable')),
    Row('image.max_age_s', 0.0, 'Older frames are dropped and counted; 0: never.', 'live', 0, 3600,
        unit='s'),
    Row('image.scale_16bit', 0.0, 'Value of a 16-bit image that becomes white; 0: 16-bit images '
        'are refused, below 0: the brightest pixel of each frame.', 'live', -1, 65535),
    Row('mask.size', 'source', "The mask has the camera's size or the network's.",
        choices=('source', 'network')),
    Row('mask.confidence', False, 'Publish ~/confidence beside the mask.', 'live'),
    Row('overlay.max_rate_hz', 5.0, 'Most overlays per second; 0: none.', 'live', 0, 240,
        unit='Hz'),
    Row('overlay.width', 640, 'Widest overlay; a smaller image is not enlarged.', 'live', 16, 8192,
        unit='px'),
    Row('overlay.jpeg_quality', 80, 'Quality of ~/overlay/compressed.', 'live', 1, 100),
    Row('geo.height_m', 0.0, 'Height above ground for geotags; 0: from the topic `height`.',
        'live', 0, 20000, unit='m'),
    Row('geo.pitch_deg', 90.0, "The camera's angle below the horizon; 90: straight down.", 'live',
        0, 90, unit='degrees'),
    Row('geo.yaw_deg', 0.0, "Turn of the image's top against the nose, clockwise.", 'live', -180,
        180, unit='degrees'),
    Row('geo.max_age_s', 1.0, 'A position, heading or height further from the image in time gives '
        'no geotag.', 'live', 0.01, 60, unit='s'),
    Row('geo.position_error_m', 2.0, 'Standard deviation of the position along east and along '
        'north, where `fix` has no covariance.', 'live', 0, 1000, unit='m'),
    Row('geo.height_error_m', 2.0, 'Standard deviation of the height above ground, slopes '
        'included.', 'live', 0, 1000, unit='m'),
    Row('geo.heading_error_deg', 5.0, 'Standard deviation of the heading.', 'live', 0, 45,
        unit='degrees'),
    Row('geo.tilt_error_deg', 2.0, "Standard deviation of the camera's tilt, along and across; "
        'without a gimbal it tilts with the drone: 5 to 15.', 'live', 0, 30, unit='degrees'),
    Row('budget.latency_ms', 0.0, 'So long 95 % of the frames may take from their arrival in the '
        'node to their mask, waiting included. Beyond it for budget.window_s the node steps down: '
        'to each smaller input of the bundle, then to every 2nd, 3rd, ... frame. 0: no bound.',
        'live', 0, 60000, unit='ms'),
    Row('budget.window_s', 5.0, 'The frames of this time decide on a step; at most one step in '
        'it.', 'live', 0.1, 60, unit='s'),
    Row('budget.return_share', 0.7, 'Back up when 95 % of the frames take less than this share of '
        'budget.latency_ms ...', 'live', 0.05, 0.95),
    Row('budget.return_after_s', 10.0, '... for so long, at least budget.window_s; doubled (up to '
        '32 times as long) by each step up that has to be taken back.', 'live', 0, 3600, unit='s'),
    Row('budget.max_skip', 4, 'On the last step one of so many frames that the engine could have '
        'taken is answered; the others spare it waiting and heat. 1: none is skipped.', 'live', 1,
        100, unit='frames'),
    Row('safe_zone.publish', False, 'Publish ~/safe_zone: the largest circle of landable classes '
        'in the picture. Whether the place is flat, firm and free of wires no mask can tell.',
        'live'),
    Row('safe_zone.classes', LANDABLE, 'Slugs of the classes to land on; not one that is rare or '
        'raises alerts.'),
    Row('safe_zone.min_radius_px', _ZONE['min_radius_px'], 'Smallest circle that is a zone, in '
        'source pixels.', 'live', 1, 100000, unit='px'),
    Row('safe_zone.margin_px', _ZONE['margin_px'], 'The circle keeps so far from every class that '
        'is rare or raises alerts.', 'live', 0, 100000, unit='px'),
    Row('safe_zone.min_confidence', _ZONE['min_confidence'], 'Cells of which the network is less '
        'sure are not landed on; 0: all are taken.', 'live', 0, 1),
    Row('safe_zone.confirm_n', _ZONE['confirm_n'], 'A place must have been free in each of so '
        'many last processed frames.', 'live', 1, 100, unit='frames'),
    Row('safe_zone.max_rate_hz', 5.0, 'Most zones per second; that one is lost is told at once.',
        'live', 0.1, 240, unit='Hz'),
    Row('stale_after_s', 2.0, 'Without a frame for so long the diagnostics warn.', 'live', 0.1,
        3600, unit='s'),
    Row('alert.classes', ('person', 'vehicle', 'fire_flare'), 'Slugs of the classes that raise '
        'alerts.'),
) + tuple(Row(f'alert.default.{name}', AlertRule.__dataclass_fields__[name].default,
              f'{text} For every class without its own value.', 'start', low, high, unit=unit)
          for name, low, high, unit, text in _ALERT_ROWS)

Values = Mapping[str, Any]


@dataclass(frozen=True)
class NodeConfig:
    """
    The checked parameters, dots as underscores; the table says what each one means.

    `alert_values` maps the slug of each alert class to AlertRule's fields.
    """

    autostart: bool
    model: str
    engine_name: str
    engine_provider: str
    engine_threads: int
    engine_cpus: str
    engine_cache_dir: str
    engine_precision: str
    engine_height: int
    engine_hang_after_s: float
    image_transport: str
    image_reliability: str
    image_max_age_s: float
    image_scale_16bit: float
    mask_size: str
    mask_confidence: bool
    overlay_max_rate_hz: float
    overlay_width: int
    overlay_jpeg_quality: int
    geo_height_m: float
    geo_pitch_deg: float
    geo_yaw_deg: float
    geo_max_age_s: float
    geo_position_error_m: float
    geo_height_error_m: float
    geo_heading_error_deg: float
    geo_tilt_error_deg: float
    budget_latency_ms: float
    budget_window_s: float
    budget_return_share: float
    budget_return_after_s: float
    budget_max_skip: int
    safe_zone_publish: bool
    safe_zone_classes: Tuple[str, ...]
    safe_zone_min_radius_px: float
    safe_zone_margin_px: float
    safe_zone_min_confidence: float
    safe_zone_confirm_n: int
    safe_zone_max_rate_hz: float
    stale_after_s: float
    alert_classes: Tuple[str, ...]
    alert_values: Mapping[str, Mapping[str, Any]]

    @property
    def geo(self) -> GeoParameters:
        """Return the parameters `geo.*`."""
        return GeoParameters(**{name: getattr(self, f'geo_{name}') for name in GEO_LIMITS})

    def alert_rules(self, label_map: LabelMap) -> Tuple[AlertRule, ...]:
        """Return one rule per alert class; LabelMapMismatch for a class the network lacks."""
        return tuple(AlertRule(class_id=label_map.by_slug(slug).id, slug=slug, **values)
                     for slug, values in self.alert_values.items())


def class_rows(given: Values) -> Tuple[Row, ...]:
    """
    Return the rows `alert.<slug>.*` of the classes in `alert.classes`, live ones.

    Their defaults are the values of `alert.default.*` in `given`.
    """
    table = {row.name: row for row in TABLE}
    rows = []
    for slug in _checked(table['alert.classes'], given):
        for name, low, high, unit, text in _ALERT_ROWS:
            default = _checked(table[f'alert.default.{name}'], given)
            rows.append(Row(f'alert.{slug}.{name}', default, text, 'live', low, high, unit=unit))
    return tuple(rows)


def is_ours(name: str) -> bool:
    """Tell whether a parameter name stands under one of our prefixes."""
    return name.split('.')[0] in PREFIXES


def check_values(given: Values) -> Tuple[Dict[str, Any], NodeConfig]:
    """
    Check parameter values and fill in the defaults.

    `given` holds our parameters only, by full name. Returns every parameter's value and the
    configuration made of them. ConfigError lists all unknown names with the nearest known one,
    or says what is wrong with a value.
    """
    rows = {row.name: row for row in TABLE + class_rows(given)}
    unknown = [_unknown(name, rows) for name in sorted(set(given) - set(rows))]
    if unknown:
        raise ConfigError('; '.join(unknown))
    values = {name: _checked(row, given) for name, row in rows.items()}
    flat = {row.name.replace('.', '_'): values[row.name] for row in TABLE
            if not row.name.startswith('alert.default.')}
    slugs = values['alert.classes']
    if len(set(slugs)) != len(slugs):
        raise ConfigError(f'alert.classes: each class once, got {list(slugs)!r}')
    names = [row[0] for row in _ALERT_ROWS]
    alert_values = {slug: {n: values[f'alert.{slug}.{n}'] for n in names} for slug in slugs}
    for class_id, (slug, rule) in enumerate(alert_values.items()):
        AlertRule(class_id=class_id, slug=slug, **rule)  # refuses values that do not fit together
    return values, NodeConfig(alert_values=alert_values, **flat)


def _checked(row: Row, given: Values) -> Any:
    return row.check(given[row.name]) if row.name in given else row.default


def _unknown(name: str, rows: Mapping[str, Row]) -> str:
    guess = nearest(name, rows)
    hint = f'; did you mean {guess!r}?' if guess else ''
    parts = name.split('.')
    if len(parts) == 3 and parts[0] == 'alert' and parts[2] in {row[0] for row in _ALERT_ROWS}:
        hint += f' ({parts[1]!r} is not in alert.classes)'
    return f'unknown parameter {name!r}{hint}'


def markdown() -> str:
    """Return README's table of parameters."""
    lines = ['| parameter | type | default | range | unit | changes | what |',
             '|---|---|---|---|---|---|---|']
    for row in TABLE:
        cells = (f'`{row.name}`', row.kind, f'`{_shown(row.default)}`', row.span(), row.unit,
                 row.when, row.text)
        lines.append('| ' + ' | '.join(cells) + ' |')
    lines.append('| `alert.<class>.*` | | as `alert.default.*` | | | live | '
                 "One class's own value of any of the seven above, such as "
                 '`alert.person.min_pixels`. |')
    return '\n'.join(lines) + '\n'


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '[' + ', '.join(value) + ']' if isinstance(value, tuple) else repr(value)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--markdown', action='store_true', required=True,
                        help="print README's table")
    parser.parse_args(arguments)
    print(markdown(), end='')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
