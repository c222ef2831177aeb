"""`python -m salad` is `salad`."""

import sys
from pathlib import Path

# Python looks for modules in the folder one works in first, and a file there must not stand in for one of Python's or ours.
if sys.path[0] == str(Path.cwd()) != str(Path(__file__).parents[1]):
    del sys.path[0]

from salad.cli import main

main()
