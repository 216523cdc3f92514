"""Every command and example of the documentation is run, or stands in the table of docs/reproduce.md."""
