"""Reviewers that are no members of the council: reward models, and models that are asked for Yes or No."""
