"""The command line `p2p`."""
