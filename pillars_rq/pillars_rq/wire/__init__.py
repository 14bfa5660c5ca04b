"""Split inference over TCP: edges that encode, a server that decodes and detects."""
