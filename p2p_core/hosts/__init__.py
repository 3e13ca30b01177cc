"""The seams to the programs that run the method: the only modules that import a host."""
