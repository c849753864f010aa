"""Training at a provider: what is asked of one, what it answers, and how nothing is paid twice or lost."""
