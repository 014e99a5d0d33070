"""Superpixel generators: SAM grid prompting with the FMA filter, SLIC, external masks."""
