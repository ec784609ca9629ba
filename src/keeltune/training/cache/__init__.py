"""The reference's distributions, computed once and kept: in what form, at what cost, and whose they are."""
