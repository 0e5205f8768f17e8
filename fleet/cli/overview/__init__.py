"""Shows what runs: the commands `list`, `status` and `top`."""
