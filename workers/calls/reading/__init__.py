"""Reads what a model wrote: JSON, reviews, and refusals to revise."""
