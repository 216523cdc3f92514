"""Bad input by the ten thousand: what the server answers to it, and what a session that has no part in it notices."""
