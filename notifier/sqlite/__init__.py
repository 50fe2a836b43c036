"""Django's backend for SQLite, with a file that only we can read."""
