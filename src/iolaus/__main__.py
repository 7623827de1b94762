"""`python -m iolaus` is the `iolaus` command."""

from iolaus.cli import main

main()
