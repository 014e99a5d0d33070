"""The offline half: photographs in, a Zarr cache of semantic superpixels and features out."""
