"""Draw synthetic scans, and write them in the layouts of the public data sets."""
