"""The store: all documents, behind one contract (`protocol`), kept by `mongo` and by `memory`."""
