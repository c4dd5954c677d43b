"""Data sets of runs that can be passed on: written from run folders, verified, and turned back into them."""
