"""Prediction: where images and videos come from, what is found in them, what is written."""
