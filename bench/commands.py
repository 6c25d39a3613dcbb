"""What clients made within a block send to the server: each command as it is."""

from contextlib import contextmanager

from pymongo import monitoring


class _Listener(monitoring.CommandListener):
    def __init__(self):
        self.commands = []

    def started(self, event):
        self.commands.append(event.command)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


@contextmanager
def commands_sent():
    """Give a list that grows by every command of the clients that are made within the block."""
    listener = _Listener()
    monitoring.register(listener)
    try:
        yield listener.commands
    finally:
        # PyMongo has no way to take one back.
        monitoring._LISTENERS.command_listeners.remove(listener)  # noqa: SLF001
