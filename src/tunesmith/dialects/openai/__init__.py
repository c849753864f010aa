"""The OpenAI wire, as the official ``openai`` SDK speaks it: models, chat completions, completions."""
