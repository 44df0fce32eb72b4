"""Games: what is played, where it is kept, and who trains."""
