"""The store in memory, for property tests and simulation: each method happens all at once."""

from reactor.store.memory_conversations import MemoryConversations
from reactor.store.memory_inbox import MemoryInbox
from reactor.store.memory_members import MemoryMembers
from reactor.store.memory_retention import MemoryRetention


class MemoryStore(MemoryInbox, MemoryConversations, MemoryMembers, MemoryRetention):
    """
    Keeps the contract of `reactor.store.protocol.Store` as long as the process lives.

    `clock` gives campaign time. `pause` is awaited at the beginning of each method: there, and
    nowhere else, others come in between.
    """
