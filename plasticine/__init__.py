"""Plasticine: does this network still learn?"""

__version__ = "0.1.0"
