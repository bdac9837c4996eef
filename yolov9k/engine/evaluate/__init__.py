"""Evaluation: COCO metrics, validation of a model, plots."""
