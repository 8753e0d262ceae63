"""What can be typed after `python -m chapters`: one dataclass a command, read by tyro.

Its fields are the options, its docstring is the help, its `run` does the work and returns the exit
code. None imports torch: the learner's code, and torch with it, runs in another process.
"""
