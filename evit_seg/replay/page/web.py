# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs no other file and no network, and holds no script."""
from __future__ import annotations

from importlib.resources import files

from evit_seg.replay.page.blocks import Page
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import escape, Markup

PACKAGE = 'evit_seg.replay.page'


def to_html(page: Page) -> str:
    """Return the page; every text is escaped, drawings are matplotlib's own SVG."""
    environment = Environment(
        loader=PackageLoader(PACKAGE, ''), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters['kind'] = lambda block: type(block).__name__
    environment.filters['breakable'] = _breakable
    environment.filters['svg'] = lambda chart: Markup(chart.draw())  # noqa: S704  made by figures
    style = files(PACKAGE).joinpath('page.css').read_text(encoding='utf-8')
    return environment.get_template('page.html.jinja').render(page=page, style=Markup(style))


def _breakable(name: str) -> Markup:
    """Return a class's name that may go on in the next line after a stroke."""
    return escape(name).replace('/', Markup('/<wbr>'))
