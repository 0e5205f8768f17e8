"""Commands that show what runs: `list`, `status`, `top`."""
