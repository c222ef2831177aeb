"""`python -m salad` is `salad`."""

from salad.cli import main

main()
