"""Grafts: blocks of the section's own intact tissue that are laid into a region, and where the network joins them."""
