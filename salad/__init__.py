"""SALAD: teach a text LLM to listen with little speech (arXiv 2510.13632).

pool -> embed -> cluster -> probe -> score -> select -> synthesise -> distil -> measure again, in rounds.
"""

__version__ = "0.1.0"
