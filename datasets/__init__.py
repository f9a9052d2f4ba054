"""Data sets: what each is, its protocol, and how its raw scans are prepared and checked."""
