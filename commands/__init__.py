"""What the scripts call.

Imported before anything that imports torch, because OpenMP reads this once, when it is loaded: a thread with nothing to do looks only a
thousand times for work before it sleeps, not 300 000 times. Beside any other busy process those who look keep those who work from
their cores (docs/performance.md). Whoever sets OMP_WAIT_POLICY or GOMP_SPINCOUNT decides instead.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
