"""From a checked recipe to a trained model: the batch plan, the Trainer adapter, what happens between steps."""
