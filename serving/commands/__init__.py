"""The commands by subject. Each parses, calls and prints; what is slow to import waits inside."""
