"""What applications share, one file each: how a kind of head is trained and read. Tasks derive from these."""
