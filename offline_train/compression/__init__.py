# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What to cut out of a network: scores of its parts, criteria and the stages' common steps."""
