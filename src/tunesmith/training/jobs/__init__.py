"""Fine-tuning jobs in the words of the finetune document: a run of the one record, and what that document adds to it."""
