# SPDX-License-Identifier: Apache-2.0
"""Training: clips, objectives, roll-outs, stages, for every size of the model."""
