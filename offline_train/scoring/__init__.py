# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What `evaluate` adds to the scores of core: objects by size, and one bundle against another."""
