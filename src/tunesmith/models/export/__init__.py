"""A tuned model taken elsewhere: PEFT folder, merged weights, GGUF, Ollama; and the proof that it still says the same.

Writing needs neither torch nor transformers: weights are read, changed and written one tensor at a time with numpy.
Only the check that follows imports them, in a process of its own (``parity``), and llama.cpp in another (``llama``).
"""
