"""The one error that users see: what was expected and what came instead."""


class TrainingError(Exception):
    """A mistake of the user's (a file, an option, a plan); the command line prints it without a traceback."""
