"""Files to rows: formats, columns, labels, pictures and sound, the audit."""
