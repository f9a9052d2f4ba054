"""Checks of raw and prepared data before training."""
