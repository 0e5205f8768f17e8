"""The NATS micro service `deliberations`: request/reply endpoints for clients."""
