"""OpenAI's REST interface: transcription of files, and the list of models."""
