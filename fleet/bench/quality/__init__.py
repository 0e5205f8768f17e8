"""Measures whether deliberation is worth its tokens."""
