"""Who works when: threads for numerics, the gate before them, work that callers share."""
