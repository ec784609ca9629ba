"""Mutated files for every reader: recipes, JSON lines, CSV, Parquet, WAV, PNG, safetensors headers, config.json.

    python -m tests.bad_inputs.fuzz                           10,000 of each, in minutes
    python -m tests.bad_inputs.fuzz --reader wav --case 123   one of them again, with its traceback

Each is read as `keeltune check` reads it and ends well or with the user's error; nothing else is allowed, nor more than
five seconds, nor more than 500 MB.
"""
