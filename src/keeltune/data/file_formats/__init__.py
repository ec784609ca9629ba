"""How a file's bytes become records: one format a file, chosen by the data file's ending or by `data.format`."""
