"""Messages that JetStream delivers to a worker: pulled, held by leases, watched for duplicates."""
