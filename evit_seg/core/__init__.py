# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundle, engine, mask, alerts and scores: no ROS, no torch."""
