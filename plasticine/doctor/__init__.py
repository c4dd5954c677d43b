"""Checks of an installation and of the machine, each with its repair."""
