"""Parts of declaring: buckets, sizes, whose a stream is, and what differs."""
