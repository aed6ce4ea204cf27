# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node costs over the bare Segmenter; the command is `evit_seg.bench`."""
