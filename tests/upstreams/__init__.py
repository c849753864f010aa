"""Upstreams of the chat gateway on real sockets, each a process of its own; ``running`` starts them."""
