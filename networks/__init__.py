"""The networks.

If `networks/fast/` exists, its operations replace the plain formulas of `networks/operations.py`.
"""

from importlib import import_module
from importlib.util import find_spec

if find_spec("networks.fast") is not None:
    import_module("networks.fast")
