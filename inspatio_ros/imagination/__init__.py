# SPDX-License-Identifier: Apache-2.0
"""From a request to imagined frames: block plan, backends, engine, assessment."""
