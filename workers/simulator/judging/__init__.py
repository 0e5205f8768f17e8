"""Routes of vLLM that tell a number for a text: `/classify`, and `/generative_scoring`."""
