"""Superpixels of a photograph: SAM prompted on a grid, FMA-WSSS filtering, SLIC, masks of your own."""
