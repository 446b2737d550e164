"""What can go wrong with the demo."""


class DemoError(Exception):
    """The demo cannot go on; the message says why, for people."""


class MissingExtraError(DemoError):
    """A package of the extra `demo` is not installed; the message says which, and the command that installs it."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the package {package} is not installed; install the extra `demo`: "
            "python -m pip install 'moa-operator[demo]'"
        )
