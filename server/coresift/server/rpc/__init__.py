"""The wire: handlers of a few lines, checks of requests, one error table, one interceptor."""
