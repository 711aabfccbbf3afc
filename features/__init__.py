"""What is known of a customer at a moment."""
