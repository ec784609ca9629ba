"""How one kind of model writes a text, one file each: causal, seq2seq, ctc. `architecture.py` is the contract."""
