"""How many cores there are to compute on."""

import os
import sys


def usable_cpus() -> int:
    """Cores this process may run on: a container or a CPU set may leave it few of the machine's."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
