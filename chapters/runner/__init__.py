"""The course's machinery: what an exercise is, whose code is checked, and what is said about it.

`AUTHORS.md` says how a chapter is written. Nothing here knows any chapter.
"""
