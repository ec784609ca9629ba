"""A run from its recipe to its folder: `kt.train`, its checkpoints, its result; and finished runs, applied or compared."""
