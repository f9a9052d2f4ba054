"""The training loop, its checkpoints, logs, devices and processes."""
