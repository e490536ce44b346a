"""What a session knows about itself: pure statistics on arrays, without wire, Redis or files."""
