"""Blocks as plans: lists of launches over preallocated buffers."""
