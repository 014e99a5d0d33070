"""The frozen vision encoders: DINOv2 with registers, CLIP, and their tiny forms."""
