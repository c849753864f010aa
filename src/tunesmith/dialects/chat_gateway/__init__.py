"""The document ``chat-gateway``: one chat call over Ollama, OpenRouter and this machine's own models."""
