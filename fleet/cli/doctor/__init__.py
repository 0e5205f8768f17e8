"""`fleet doctor`, and what it shares with `fleet status`: what a running fleet tells about itself."""
