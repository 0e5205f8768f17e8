"""Rates proposals: from reviews to scores, from scores to an order, and how sure it is."""
