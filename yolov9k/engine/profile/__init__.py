"""Profiling of the training step against its floors."""
