"""Inverting real images: one file a method, one task for all of them (`task.Task`)."""
