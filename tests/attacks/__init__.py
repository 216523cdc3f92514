"""Attacks on the server's memory, disk, connections and key, each measured while it lasts."""
