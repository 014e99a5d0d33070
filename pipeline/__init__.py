"""The offline half: images in, a Zarr cache of semantic superpixels and features out."""
