"""What a worker knows of each model server, and which server takes a call."""
