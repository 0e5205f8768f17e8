"""Compares models by what results say of them: the command `models`."""
