"""Testing the runtime: a cluster on one machine, and a client that means harm."""
