"""What a trained model's answers say about it, one subject a file; `…_report` makes its entry of `result.json`."""
