"""The message archive: what a store node keeps, in SQLite (default) or PostgreSQL."""
