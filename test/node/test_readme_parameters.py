# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""README's table of parameters is the one in the code."""
from __future__ import annotations

from pathlib import Path

from evit_seg.ros.params import main, markdown

README = Path(__file__).resolve().parents[2] / 'README.md'


def test_readme_shows_the_table_of_the_code(capsys):
    text = README.read_text(encoding='utf-8')
    shown = text.split('<!-- parameters:begin -->\n')[1].split('<!-- parameters:end -->')[0]
    assert shown.strip() == markdown().strip(), (
        'put the output of `python -m evit_seg.ros.params --markdown` between the markers')
    assert main(['--markdown']) == 0
    assert capsys.readouterr().out == markdown()
