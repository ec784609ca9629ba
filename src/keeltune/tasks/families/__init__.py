"""What applications share: how a kind of head, or a kind of model that writes, is trained, read and scored."""
