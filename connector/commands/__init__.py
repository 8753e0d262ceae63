"""What can be typed after `python -m gpt2_scratch`: one module a command, each a frozen dataclass.

Its fields are the options, its docstring is the help, its `run` does the work and returns the exit
code. torch is imported inside `run` only, so that `--help` answers at once.
"""
