"""Preparation of raw scans for training and prediction: what data sets share."""
