"""`python -m embank` is the command `embank`."""

from embank.cli.app import main

main()
