"""Proposals of artefacts in a section that nobody annotated: a survey of the whole, then detectors tile by tile."""
