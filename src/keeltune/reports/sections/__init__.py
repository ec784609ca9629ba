"""The sections of a run's page, in the order of their numbers: one file each, with its sentences and its template."""
