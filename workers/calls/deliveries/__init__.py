"""Holds the messages that JetStream delivers to a worker: pulled, leased, watched for duplicates."""
