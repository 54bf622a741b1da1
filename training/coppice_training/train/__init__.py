"""Training: plans (what, how long, which mix), resumable runs, monitoring."""
