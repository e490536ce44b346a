"""Sessions in Redis: the store, its operations, and the connections to masters and replicas."""
