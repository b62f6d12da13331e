"""Finding cells: grey pixels in, a table of cell bodies out."""
