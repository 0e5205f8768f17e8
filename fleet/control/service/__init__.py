"""Serves the NATS micro service `deliberations`: request/reply endpoints for clients."""
