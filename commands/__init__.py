"""One module per command of the scripts and of `fewlabels`.

This package is imported before torch, because OpenMP reads its settings once, when it is loaded. A
thread without work then looks for work only a thousand times before it sleeps, not 300 000 times.
Next to another busy process, threads that look for work would take the cores from those that have
some (docs/performance.md). OMP_WAIT_POLICY and GOMP_SPINCOUNT, if they are set, win.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
