"""What `python -m nag` does, one file a command: `add_arguments(parser)` and `run(options)`."""
