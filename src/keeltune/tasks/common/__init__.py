"""What the tasks, families and architectures share: examples, settings, batches, vocabulary heads."""
