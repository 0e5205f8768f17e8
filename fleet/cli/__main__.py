"""`python -m fleet.cli`: how the supervisor starts its components with its own interpreter."""

from fleet.cli import main

main()
