"""Generating text: the engine port, the chat service over it, and the engines themselves."""
