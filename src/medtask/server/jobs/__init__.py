"""Jobs: long work that worker processes do, one lease at a time."""
