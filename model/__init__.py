"""Projectors and the referring-segmentation model; no file access, no dependency on Zarr."""
