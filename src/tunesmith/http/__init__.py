"""What every dialect needs of HTTP and none of them owns: streams, errors, limits."""
