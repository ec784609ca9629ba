"""What a trained model's answers say about it: pure functions, one subject a file."""
