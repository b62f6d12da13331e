"""Pages, pictures and cards that people read."""
