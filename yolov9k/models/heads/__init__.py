"""Heads: what turns feature maps into predictions."""
