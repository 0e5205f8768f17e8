"""Files of the repository as a test sees them."""
