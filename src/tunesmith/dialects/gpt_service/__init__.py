"""The document ``gpt-service``: models, generation, batch, training, evaluation."""
