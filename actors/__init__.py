"""Shards: what each decides, its store, its actor, and how a read finds the right one."""
