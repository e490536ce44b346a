"""The log of a session as a replica sees it: labels, leases, and what is open to whom."""
