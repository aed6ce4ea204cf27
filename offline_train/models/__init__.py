# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Segmentation networks by name."""
