"""SharpGPT: what do sharper output distributions do to a language model?"""

__version__ = "0.1.0"
