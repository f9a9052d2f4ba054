"""Metrics, statistics, and predicting and scoring of cases and folders."""
