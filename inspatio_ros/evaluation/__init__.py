# SPDX-License-Identifier: Apache-2.0
"""Judging imagined views against what was really seen."""
