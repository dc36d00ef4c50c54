"""Self-hosted, real-time speech-to-text server for conversational agents."""
