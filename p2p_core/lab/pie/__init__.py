"""PIE-Bench's table, as published."""
