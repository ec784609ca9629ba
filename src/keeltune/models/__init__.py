"""Models and their processors: found, loaded, made from nothing, cut, adapted."""
