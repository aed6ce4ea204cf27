# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What `bench` measures a bundle with: energy, memory, and how it is told."""
