"""Tenants of the fleet that is broken: their accounts, what each of them hears, and whether it was their own."""
