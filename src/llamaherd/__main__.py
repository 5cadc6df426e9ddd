"""`python -m llamaherd`."""

from llamaherd.cli import main

main()
