"""From the bytes of a response to a text: events, thoughts, endings, silence."""
