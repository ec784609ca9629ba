"""The reference's distributions, computed once and kept: what is asked, what it costs, what it belongs to."""
