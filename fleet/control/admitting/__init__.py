"""When a request becomes a deliberation in progress."""
