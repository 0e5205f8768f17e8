"""Turns a client's bytes into a `Task`, or into a `BadRequest` that names the field."""
