"""Profiling of the training step against its roofline bounds."""
