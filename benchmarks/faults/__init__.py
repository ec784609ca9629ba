"""What a run survives: each way of losing work is tried on small random models, and the end is held to the bit."""
