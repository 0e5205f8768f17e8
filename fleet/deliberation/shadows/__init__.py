"""Models on trial, beside a council."""
