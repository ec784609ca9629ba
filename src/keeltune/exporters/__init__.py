"""A trained model for another runtime, each file proved against the model that it was made of."""
