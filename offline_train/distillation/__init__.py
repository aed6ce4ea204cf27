# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a student can learn from a teacher: terms on logits, terms on features, and a guard."""
