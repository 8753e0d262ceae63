"""The article's other systems, and what they are compared with. Built from parts of this project.

Nothing below this folder knows of it.
"""
