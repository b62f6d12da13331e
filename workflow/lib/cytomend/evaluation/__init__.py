"""How good mended tissue is: trials on intact tissue, what is measured in them, how sure it is."""
