"""What people look at: pages of one file, made from what the service knows."""
