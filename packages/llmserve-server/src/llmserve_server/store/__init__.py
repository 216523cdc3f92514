"""The episode store: episodes as rows of a database, so that sessions survive the end of the process."""
