# SPDX-License-Identifier: Apache-2.0
"""The generator and its codecs: tensors in, tensors out."""
