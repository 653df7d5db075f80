"""``python -m salcr``: the command line, as ``torchrun -m salcr`` starts it."""

from salcr.cli import main

main()
