"""cytomend: mend damaged regions of histological brain sections, and prove the result."""

__version__ = "0.1.0"
