"""Django's SQLite backend, with a database file that only we can read."""
