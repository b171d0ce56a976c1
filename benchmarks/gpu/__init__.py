"""Measurements of the GPU path beside the limits of the chip."""
