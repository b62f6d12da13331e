"""Where a section is damaged: masks, regions, the lattice of windows, the canvas of a region."""
