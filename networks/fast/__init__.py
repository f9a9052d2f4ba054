"""Faster equivalents of `networks/operations.py`, for the CPU or CUDA; importing this package puts
them in place.

Each module names the formula that it replaces, the test that compares both, and the gain;
docs/performance.md has the table of gains and the command that measures them. Networks also work if
this folder does not exist.
"""

from networks.fast import edge_guidance, matrices, random_bits

__all__ = ["edge_guidance", "matrices", "random_bits"]
