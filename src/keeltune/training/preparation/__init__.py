"""Everything that a recipe names is read, labelled, encoded and checked; no weights. `keeltune check` ends here."""
