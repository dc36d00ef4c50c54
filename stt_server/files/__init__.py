"""Audio files to words: decoding in processes of their own, cutting at silences, recognising many
pieces at once beside live sessions. Knows no HTTP."""
