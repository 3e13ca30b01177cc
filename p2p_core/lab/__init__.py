"""What measures, compares and shows: nothing but the benchmark command and make know it."""
