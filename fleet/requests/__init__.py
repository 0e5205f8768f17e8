"""Bytes of a client become a `Task`, or a `BadRequest` that names the field."""
