# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Changing the shapes of a network, in a way that can be written down and done again."""
