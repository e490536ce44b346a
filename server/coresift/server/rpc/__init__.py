"""The wire: handlers of a few lines, checks of requests, one error table, two interceptors."""
