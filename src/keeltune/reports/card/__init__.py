"""What a model card says, part by part: its metadata, where the model comes from, its limits, and how it is used."""
