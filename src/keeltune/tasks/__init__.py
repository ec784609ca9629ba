"""What is predicted: one application a file. `task.py` is the contract, `families.py` what applications share."""
