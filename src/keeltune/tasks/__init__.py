"""What is predicted: one application a file. `task.py` is the contract.

families/       what applications share: a kind of head, and how it is trained and read
architectures/  how one kind of model writes a text: causal, seq2seq, ctc
metrics/        what an answer is worth
common/         examples, settings, batches, and other parts of the contract
"""
