"""What goes wrong, in sentences for people."""


class Refused(ValueError):
    """A request that cannot be run, with the sentence that says why."""


class Stopped(Exception):
    """Raised inside a pipeline to end it."""
