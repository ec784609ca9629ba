"""A run from its recipe to its folder: `kt.train`, its checkpoints, its result; finished runs applied and compared."""
