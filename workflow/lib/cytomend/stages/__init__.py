"""One module a stage: a function on paths and settings, its command line, and the two joined."""
