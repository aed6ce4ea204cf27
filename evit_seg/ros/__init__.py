# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node: rclpy and core, nothing else."""
