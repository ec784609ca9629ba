"""Sentences of a finished result, for the console and the pages: one file a subject, each with `findings`."""
