"""Runs one worker: takes agent calls from JetStream, makes them, publishes their answers."""
