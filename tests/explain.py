"""What the server says of how it would answer a command."""

from pymongo import monitoring

#: Commands that look for documents; an insert looks for none.
COMMANDS = {"find", "aggregate", "update", "count", "delete", "findAndModify", "distinct"}
#: Of the session, not of the command.
FOREIGN = ("lsid", "txnNumber", "readConcern", "writeConcern", "maxTimeMS")


class Explainable(monitoring.CommandListener):
    """Keeps the commands that look for documents, as they were sent."""

    def __init__(self):
        self.kept = []

    def started(self, event):
        """Keep one; `$`-fields and what belongs to the session are not for `explain`."""
        if event.command_name in COMMANDS:
            command = {
                name: value
                for name, value in event.command.items()
                if name not in FOREIGN and not name.startswith("$")
            }
            self.kept.append(command)

    def succeeded(self, event):
        """Nothing to note."""

    def failed(self, event):
        """Nothing to note."""


def stages_of(plan):
    """Give the names of all stages of a plan, wherever they are nested."""
    if isinstance(plan, dict):
        own = [plan["stage"]] if isinstance(plan.get("stage"), str) else []
        return own + [
            name
            for key, value in plan.items()
            if key != "rejectedPlans"
            for name in stages_of(value)
        ]
    if isinstance(plan, list):
        return [name for value in plan for name in stages_of(value)]
    return []


def collection_scans(plan):
    """Add up what `$lookup` and `$unionWith` say of what they read."""
    if isinstance(plan, dict):
        own = plan.get("collectionScans", 0)
        return int(own) + sum(collection_scans(value) for value in plan.values())
    if isinstance(plan, list):
        return sum(collection_scans(value) for value in plan)
    return 0


def explained(command):
    """Give the commands that explain one: an `update` has many statements, `explain` takes one."""
    for statements in ("updates", "deletes"):
        if statements in command:
            return [{**command, statements: [each]} for each in command[statements]]
    return [command]
