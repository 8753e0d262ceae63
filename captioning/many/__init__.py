"""Captions for any number of pictures: listed on the disk, opened ahead of the model, resumable.

What lives here knows where pictures lie and how far a job has come. It takes a captioner and builds
none; nothing is in memory but the pictures at hand.
"""
