"""The Python client: submit a request, wait for its result, cancel it."""
