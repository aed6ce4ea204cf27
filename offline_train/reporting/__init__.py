# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What `offline_train report` is made of: reading results, joining them, tables, figures, page."""
