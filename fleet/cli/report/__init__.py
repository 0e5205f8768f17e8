"""Writes `fleet report`: one deliberation as a page for somebody who has never heard of the fleet.

`writing` makes a document of blocks; `html` and `markdown` render it. What a model or a client wrote is text in both.
"""
