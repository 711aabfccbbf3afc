"""What to do: pure functions, tables and settings in, tables out."""
