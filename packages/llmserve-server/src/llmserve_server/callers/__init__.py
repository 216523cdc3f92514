"""Who calls, by which name and path, and what the caller may do."""
