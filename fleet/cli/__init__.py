"""The command line. `app` puts the commands together; each module holds the commands of one concern."""


def main() -> None:
    """The entry point of `fleet`."""
    from fleet.cli.app import main as run

    run()
