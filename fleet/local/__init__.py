"""Runs a whole fleet on one machine: nats-server, Ray, model server, dispatcher and collector as child processes."""
