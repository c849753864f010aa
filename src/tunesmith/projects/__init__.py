"""Projects, their tasks, the tasks' runs (examples) and frozen splits of them: containers of the finetune document."""
