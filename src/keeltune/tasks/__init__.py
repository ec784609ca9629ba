"""What is predicted: one application a file. `task.py` is the contract; what applications share lies in `families/`."""
