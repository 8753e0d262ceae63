"""What `python -m weights` can do, a function a command. Here alone `weights` prints."""
