# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Image folders, synthetic scenes and flights."""
