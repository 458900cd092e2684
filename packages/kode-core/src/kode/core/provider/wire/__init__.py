"""What providers over HTTP share: connections, server-sent events, secrets, and how vendors say no."""
