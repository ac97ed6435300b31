"""Jobs that run elsewhere: sent, asked about, and their output fetched."""
