"""The child process that reads, checks and rewrites whole files, so that the server's memory and loop stay free."""
