"""Finds the result that an equal request may be answered with, or who is at work on it: `options.cache`."""
