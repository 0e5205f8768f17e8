"""`python -m workers.simulator`: the simulated model server on a port."""

from workers.simulator.server import main

if __name__ == "__main__":
    main()
