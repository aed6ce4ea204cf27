# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""On-board semantic segmentation for disaster drones: the part that flies."""
