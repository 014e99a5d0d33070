"""SVP: semantic superpixels as visual tokens for referring image segmentation."""

__version__ = "0.1.0"
