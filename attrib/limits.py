"""How large or small what is given may be."""

ROUNDING = 1e-5
"""How far a pixel may lie outside [0,1], as after a normalisation that was undone."""
LARGEST_SIZE = 8192
"""Pixels of a side that images are resized to: an image of 0.8 GB."""
