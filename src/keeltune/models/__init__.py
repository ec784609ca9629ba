"""Models and their processors: located, loaded, initialised, cut to fewer layers, adapted."""
