"""Who is asking. Empty still: everything belongs to the machine's owner, whom records call "local"."""
