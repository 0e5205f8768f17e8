"""What a single worker needs: who asks it, and whom it asks."""
