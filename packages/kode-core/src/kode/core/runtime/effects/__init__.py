"""Effects: what the kernel asks for is carried out, once per attempt, and answers with one input."""
