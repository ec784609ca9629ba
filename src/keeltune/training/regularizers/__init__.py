"""Regularisers: optional changes of how a student is trained, each off unless a recipe names it; one file each."""
