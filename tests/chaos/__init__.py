"""The fault suite: real workers on a real replica set, faults by seed, and a witness."""
