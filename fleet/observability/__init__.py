"""Shows operators what happens: logs, health, metrics and traces."""
