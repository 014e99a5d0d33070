"""The projectors and the referring-segmentation model. It reads no file and knows no Zarr."""
