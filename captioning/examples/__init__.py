"""The article's own loops, to be read beside `gpt2_scratch.generate`, which does the work here.

They are as slow as they look. Nothing but the tests calls them.
"""
