import pytest


@pytest.fixture(scope="session", autouse=True)
def apart_from_other_fleets() -> None:
    """A container engine without root has its socket in the user's own `XDG_RUNTIME_DIR`."""
