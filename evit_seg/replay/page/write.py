# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the JSON of bag_eval or live to the files people read."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evit_seg.core.errors import ConfigError, InputError
from evit_seg.replay.page.accuracy import classes, sizes
from evit_seg.replay.page.alerts import alerts, thresholds
from evit_seg.replay.page.blocks import amount, joined, Page
from evit_seg.replay.page.facts import facts, notes
from evit_seg.replay.page.look import look
from evit_seg.replay.page.markdown import to_markdown
from evit_seg.replay.page.source import read_source, Source
from evit_seg.replay.page.speed import speed
from evit_seg.replay.page.summary import summary
from evit_seg.replay.page.where import where

MODULES = ('jinja2', 'matplotlib')


def build_page(report: Mapping[str, Any], command: str | None = None) -> Page:
    """Return the page of a report: what bag_eval --json writes, or live's report.json."""
    source = read_source(report, command)
    parts = (summary, alerts, where, classes, speed, facts, notes) if source.live else \
        (summary, alerts, where, classes, sizes, thresholds, look, speed, facts, notes)
    return Page(_title(source), _subtitle(source), tuple(make(source) for make in parts))


def write_page(report: Mapping[str, Any], *, html: Path | None = None,
               markdown: Path | None = None, command: str | None = None) -> None:
    """
    Write the page and its Markdown, each where it is asked for.

    `command` is the line that makes the report again. The same report gives the same bytes.
    ConfigError where matplotlib or jinja2 is not installed, InputError where a place cannot be
    written.
    """
    page = build_page(report, command)
    if markdown is not None:
        _write(markdown, to_markdown(page))
    if html is not None:
        _write(html, page_html(page))


def page_html(page: Page) -> str:
    """Return the page as HTML; only here the drawing libraries are loaded."""
    try:
        from evit_seg.replay.page import figures, web
    except ModuleNotFoundError as error:
        if error.name not in MODULES:
            raise
        raise ConfigError(f'an HTML report needs {joined(MODULES)}, {error.name} is missing: '
                          "pip install 'evit_seg[replay]'") from error
    del figures  # loaded so that what is missing is said before anything is drawn
    return web.to_html(page)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error}') from error


def _title(source: Source) -> str:
    what = 'Live run' if source.live else 'Replay'
    return f'{what}: {source.bags[0]}' if len(source.bags) == 1 \
        else f'{what} of {amount(len(source.bags), "bag")}'


def _subtitle(source: Source) -> str:
    if not source.bundles:
        return 'Nothing could be evaluated.'
    seconds = sum(source.runs_of(bag)[0].length_s for bag in source.bags)
    length = f'{seconds:.1f} s' if seconds < 120 else f'{seconds / 60:.1f} min'
    names = joined([bundle.label for bundle in source.bundles])
    how = 'played to seg_node' if source.live else 'evaluated without ROS'
    return f'{length} of flight, {how} with {names}.'
