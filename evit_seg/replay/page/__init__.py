# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""
The report people look at: one self-contained HTML page, and the same facts as Markdown.

Sections are made of blocks (blocks.py), which web.py and markdown.py write; figures.py draws.
"""
