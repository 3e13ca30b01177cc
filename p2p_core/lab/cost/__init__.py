"""What an edit costs in time and memory."""
