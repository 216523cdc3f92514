"""Whether the server's sessions survive `kill -9`; a program, see `__main__`."""
