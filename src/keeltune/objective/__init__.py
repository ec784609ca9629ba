"""The formula, what it is computed on, and the shelves it takes from: divergences, references, matching terms."""
