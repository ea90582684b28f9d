# SPDX-License-Identifier: Apache-2.0
"""Views along paths that a robot has not driven yet, imagined from what it has seen."""

from __future__ import annotations

import os
from pkgutil import extend_path

# The generated inspatio_ros.msg, .srv and .action may live in another prefix than the sources.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

# The thread pools of torch and numba wait for work by spinning unless told otherwise, and then
# take the cores from each other and from every other node: ten times slower on a busy robot. It
# must be said before either is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
