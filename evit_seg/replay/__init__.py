# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bags in, scores out: rosbags and core, no ROS graph (but for the live player)."""
