"""One formatter for every way examples leave: download, upload to a provider, training on this machine."""
