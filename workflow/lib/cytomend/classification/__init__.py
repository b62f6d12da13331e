"""Which layer or area a patch of tissue looks like."""
