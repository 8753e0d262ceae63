"""What is measured, and what measuring needs. Nothing of it is installed."""
