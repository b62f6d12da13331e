"""Files: images in, pyramids out, nothing half-written."""
